"""What the numerics are compared on: a module with seeded random (or shipped) weights, inputs, and how it is run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kinolab.contracts.conditions import Conditions


def call(module: Any, *inputs: Any) -> Any:
    """module(*inputs)."""
    return module(*inputs)


@dataclass(frozen=True)
class Case:
    """One thing that has to give the same on every device.

    build: the module, on the CPU in float32, the same at every call.
    inputs: its inputs, on the CPU, the same at every call.
    run: module and inputs -> a tensor, or several in a tuple.
    gradients: whether to compare those of a weighted sum of the outputs too, by floating inputs and parameters.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    run: Callable[..., Any] = call
    gradients: bool = True


def seeded(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers of a seed, float32 on the CPU."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def randomised(module: nn.Module, size: float = 0.02, seed: int = 1) -> nn.Module:
    """The module with noise added to every parameter, so that none of its parts is the identity or zero as it begins,
    and in evaluation mode; running statistics become those of data that is neither centred nor of unit variance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.mul_(1 + 0.2 * torch.rand(buffer.shape, generator=generator))
    return module.eval()


def fresh(build: Callable[[], nn.Module], size: float = 0.02, seed: int = 0) -> Callable[[], nn.Module]:
    """A builder whose module has the same random weights at every call."""

    def made() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return randomised(build(), size, seed + 1)

    return made


def moved(value: Any, device: torch.device | str) -> Any:
    """Tensors in tuples, lists, mappings and dataclasses on another device; all else as it is."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Conditions):
        return value.to(device)
    if isinstance(value, tuple | list):
        return type(value)(moved(v, device) for v in value)
    if isinstance(value, Mapping):
        return {k: moved(v, device) for k, v in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: moved(getattr(value, f.name), device) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value


def tensors(value: Any) -> list[Tensor]:
    """All tensors in tuples, lists, mappings and dataclasses, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return [t for v in value for t in tensors(v)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [t for f in dataclasses.fields(value) for t in tensors(getattr(value, f.name))]
    return []
