"""The null condition of models whose public layouts have none: their pipelines encode the empty prompt instead.

One that was learned or set here is written beside the public names, where diffusers leaves it alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from kinolab.checkpoints.base import Format, header_of, public_tensors
from kinolab.checkpoints.files import write_safetensors
from kinolab.errors import InputError

NULL = ("null_prompt.text", "null_prompt.pooled")
"""Tensors that the public layouts don't know."""


def without_empty_null(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without a null condition that was never set."""
    return {k: v for k, v in tensors.items() if k not in NULL or bool(v.any())}


class NullPromptFormat(Format):
    """A layout of one file that has no null condition."""

    absent = NULL

    def write(self, module: Any, path: Path) -> None:
        """Write a .safetensors file, without the prefix that whole checkpoints have."""
        if path.suffix != ".safetensors":
            raise InputError(f"{path}: format {self.name} is written to a .safetensors file")
        tensors = without_empty_null(public_tensors(self, module))
        stored = {name: self.stored(name, value) for name, value in tensors.items()}
        write_safetensors(path, stored, header_of(self, module))

    def stored(self, name: str, value: Tensor) -> Tensor:
        """A tensor in the shape that the file has it in, by its name there."""
        return value
