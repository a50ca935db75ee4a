"""What every public format offers, and how its tensors get into a module and out of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kinolab.checkpoints.files import write_safetensors
from kinolab.config import Config
from kinolab.errors import InputError

Shapes = Mapping[str, tuple[int, ...]]
"""Names of a file's tensors and their shapes."""


@dataclass
class Guess:
    """What names and shapes say about a config.

    values: fields that are known or assumed; assumed: field -> why, where another value would fit as well;
    unknown: field -> what is missing, where no value can be assumed.
    """

    values: dict[str, Any] = field(default_factory=dict)
    assumed: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)


class Format(ABC):
    """One public layout of weights: how to know it, what config it implies, what its names are."""

    name: str
    title: str
    module_class: type[nn.Module]
    config_class: type[Config]
    ignored: tuple[str, ...] = ()
    """Beginnings of names that such files hold beside the model: a training loss, counters. Nothing else is ignored."""
    absent: tuple[str, ...] = ()
    """Learned tensors of the module that the public model has not: they stay as initialised where a file lacks them."""
    folder: bool = False
    """Whether it is written as a folder instead of a file."""

    def ignores(self, name: str) -> bool:
        """Whether such files hold a tensor of this name beside the model."""
        return name.startswith(self.ignored)

    @abstractmethod
    def matches(self, shapes: Shapes) -> bool:
        """Whether a file with these tensors is of this format (whole or not)."""

    @abstractmethod
    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        """Config fields from names and shapes, and from the `config.json` beside them ({} if there is none)."""

    def half(self, shapes: Shapes) -> str | None:
        """For a layout that comes in two files: what is put before the names of this one, such as `encoder.`, where the
        tensors are of either; none otherwise."""
        return None

    def file_names(self, name: str, config: Any) -> tuple[str, ...]:
        """The names in a file, the usual one first, of the module's tensor `name`."""
        return (name,)

    def parts(self, name: str, config: Any) -> tuple[str, ...]:
        """The names of the tensors in a file that make up `name`, one after the other along their first dimension.

        Empty where there is but one, which `file_names` gives.
        """
        return ()

    def rearrange(self, name: str, value: Tensor, config: Any) -> Tensor:
        """The module's tensor `name` as the file has it, and the other way round: a change that undoes itself."""
        return value

    def check_writable(self, module: Any) -> None:
        """Raises InputError where the public code would not give this module's outputs with its weights."""
        return

    def write(self, module: Any, path: Path) -> None:
        """Write the module's weights in this layout: a .safetensors file."""
        if path.suffix != ".safetensors":
            raise InputError(f"{path}: format {self.name} is written to a .safetensors file")
        write_safetensors(path, public_tensors(self, module), header_of(self, module))

    def scaling(self, settings: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
        """Shift and scale of each latent channel where `config.json` gives them by channel."""
        return None

    def build(self, config: Any) -> nn.Module:
        """A module of this format's class."""
        return self.module_class(config)


def public_tensors(format: Format, module: Any) -> dict[str, Tensor]:
    """The module's tensors under their names in the file; the scaling of latents is not part of public layouts."""
    tensors: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        if name in ("latent_shift", "latent_scale"):
            continue
        value = format.rearrange(name, value, module.config)
        parts = format.parts(name, module.config)
        if parts:
            tensors |= zip(parts, value.chunk(len(parts)), strict=True)
        else:
            tensors[format.file_names(name, module.config)[0]] = value
    return tensors


def header_of(format: Format, module: Any) -> dict[str, Any]:
    """What our reader finds in the header of a file that we wrote: the config that names and shapes don't tell."""
    header: dict[str, Any] = {"format": format.name, "config": module.config.model_dump(mode="json")}
    if hasattr(module, "latent_scale"):
        header |= {"latent_shift": module.latent_shift.tolist(), "latent_scale": module.latent_scale.tolist()}
    return header


@dataclass(frozen=True)
class Fit:
    """How the tensors of a file fit a module: what goes where, and all that does not.

    state: name in the module -> names in the file, several where they are joined along their first dimension.
    """

    state: dict[str, tuple[str, ...]]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def problems(self) -> str:
        """Every missing, unexpected and misshapen name, or an empty string."""
        parts = []
        for what, names in (("missing", self.missing), ("unexpected", self.unexpected)):
            if names:
                parts.append(f"{len(names)} {what}: {', '.join(names)}")
        if self.misshapen:
            parts.append(f"{len(self.misshapen)} of another shape: {', '.join(self.misshapen)}")
        return "; ".join(parts)


def fit(format: Format, module: nn.Module, config: Any, shapes: Shapes) -> Fit:
    """Compare a file's tensors with a module's, name by name. The module may be on the meta device."""
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    optional = {name for name, _ in module.named_buffers()} | set(format.absent)
    state: dict[str, tuple[str, ...]] = {}
    missing: list[str] = []
    misshapen: list[str] = []
    used: set[str] = set()
    for name, shape in wanted.items():
        parts = format.parts(name, config)
        choices = [parts[i : i + 1] for i in range(len(parts))] or [format.file_names(name, config)]
        found = tuple(next((n for n in names if n in shapes), "") for names in choices)
        used |= set(found)
        if "" in found:
            if name not in optional:
                missing += [names[0] for names, n in zip(choices, found, strict=True) if not n]
            continue
        expected = (shape[0] // len(found), *shape[1:]) if len(found) > 1 else shape
        # Layers of kernel 1 are stored as linear layers or as convolutions: the same numbers.
        wrong = [n for n in found if [d for d in shapes[n] if d != 1] != [d for d in expected if d != 1]]
        misshapen += [f"{n} {tuple(shapes[n])}, expected {expected}" for n in wrong]
        if not wrong:
            state[name] = found
    unexpected = tuple(n for n in shapes if n not in used and not format.ignores(n))
    return Fit(state, tuple(missing), unexpected, tuple(misshapen))


def fill(format: Format, module: Any, fitted: Fit, tensors: Mapping[str, Tensor]) -> None:
    """Copy a file's tensors into the module, in the module's type."""
    own = module.state_dict()
    with torch.no_grad():
        for name, sources in fitted.state.items():
            joined = torch.cat([tensors[s] for s in sources]) if len(sources) > 1 else tensors[sources[0]]
            own[name].copy_(format.rearrange(name, joined.reshape(own[name].shape), module.config))


def count(shapes: Shapes, before: str, after: str = "") -> int:
    """How many of before + 0 + after, before + 1 + after, ... lead to at least one tensor."""
    number = 0
    while any(name.startswith(f"{before}{number}{after}.") for name in shapes):
        number += 1
    return number
