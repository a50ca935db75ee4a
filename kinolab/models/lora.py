"""LoRA adapters that a model folder holds beside its denoiser: put on when it is read, and written apart from it again.

A file `lora-NAME.safetensors` holds `LAYER.lora_down` (r, in) and `LAYER.lora_up` (out, r) of the denoiser's own
layers, with their scales in `lora_up`; `model.yaml` has the weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field
from torch import Tensor, nn

from kinolab.config import Config
from kinolab.denoisers import Denoiser
from kinolab.errors import InputError
from kinolab.layers.lora import DOWN, UP, Change, change_layers, changes_of, plain_state, weight_of
from kinolab.runtime.modules import decode, read_tensors

MOST = 6
"""Misfits that an error lists."""


class LoraConfig(Config):
    """What model.yaml says of an adapter."""

    weight: float = Field(1.0, allow_inf_nan=False)
    """What its changes are multiplied with."""


class StageLora(nn.Module):
    """The changes of an adapter by the names of a denoiser's layers, as they are stored: without the weight."""

    def __init__(self, changes: Mapping[str, Change]) -> None:
        super().__init__()
        for layer, change in changes.items():
            room: nn.Module = self
            for piece in layer.split("."):
                if piece not in room._modules:
                    room.add_module(piece, nn.Module())
                room = room.get_submodule(piece)
            for name, value in ((DOWN, change.down), (UP, change.up)):
                room.register_parameter(name, nn.Parameter(value.detach().clone(), requires_grad=False))

    @property
    def changes(self) -> dict[str, Change]:
        """By the names of layers."""
        return changes_of(self.state_dict())

    def put_on(self, denoiser: Denoiser, weight: float, *, merged: bool = False) -> None:
        """Add `weight` times the changes to a denoiser's layers, in place: beside them, or to their weights."""
        change_layers(denoiser, {n: c.times(weight) for n, c in self.changes.items()}, merged=merged)


def stored_state(module: nn.Module) -> dict[str, Tensor]:
    """What a file of a model folder holds of a module: its own weights, without adapters, which have files."""
    return dict(module.state_dict()) if isinstance(module, StageLora) else plain_state(module)


def read_lora(path: Path, denoiser: Denoiser) -> StageLora:
    """The adapter of a file, for a denoiser.

    Raises:
        InputError: where the file is missing or damaged, or does not fit.
    """
    state = {name: value.float() for name, value in decode(path, *read_tensors(path)).items()}
    problems = _problems(state, denoiser)
    if problems:
        raise InputError(f"{path}: does not fit model.yaml: {'; '.join(problems[:MOST])}")
    return StageLora(changes_of(state))


def _problems(state: Mapping[str, Tensor], denoiser: Denoiser) -> list[str]:
    """What of a file's tensors are no changes of a denoiser's layers."""
    weights = {name: weight_of(module) for name, module in denoiser.named_modules()}
    found = []
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        weight, other = weights.get(layer), state.get(f"{layer}.{UP if kind == DOWN else DOWN}")
        if kind not in (DOWN, UP) or weight is None or other is None:
            found.append(f"unexpected {name}")
        elif kind == DOWN and (value.shape[1:] != weight.shape[1:] or other.shape != (len(weight), len(value))):
            found.append(
                f"{name} has shape {tuple(value.shape)} and {UP} {tuple(other.shape)}, of {tuple(weight.shape)}"
            )
    return found
