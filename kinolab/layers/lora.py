"""LoRA: layers that stay as they are and have a change of low rank beside them (Hu et al., 2021, arXiv:2106.09685).

Equation 3 of the paper: h = W x + (alpha / r) B A x. A is `lora_down` (r, in), B is `lora_up` (out, r). Of a
convolution A has the kernel's shape, (r, in, kh, kw), and B is a convolution of 1 x 1 (as in LoCon).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

DOWN, UP = "lora_down", "lora_up"


class Change(NamedTuple):
    """A change of a weight by up @ down, with its scale in `up`.

    down: (r, in), or (r, in, kh, kw) of a convolution; up: (out, r).
    """

    down: Tensor
    up: Tensor

    @property
    def rank(self) -> int:
        """Rows of `down`."""
        return len(self.down)

    @property
    def delta(self) -> Tensor:
        """What is added to the weight: (out, in) or (out, in, kh, kw)."""
        return (self.up @ self.down.flatten(1)).unflatten(1, self.down.shape[1:])

    def times(self, weight: float) -> Change:
        """The change at another strength."""
        return Change(self.down, self.up * weight)


def stacked(changes: Iterable[Change]) -> Change:
    """The sum of changes of one weight, as one change of all their ranks: B1 A1 + B2 A2 = [B1 B2] [A1; A2]."""
    listed = list(changes)
    return Change(torch.cat([c.down for c in listed]), torch.cat([c.up for c in listed], 1))


def joined(changes: Iterable[Change | None], shape: Sequence[int]) -> Change:
    """One change of a weight of `shape` whose rows are several equal pieces one after the other, from one for each.

    None = that piece is not changed. Exact: `up` has a block for each.
    """
    listed = list(changes)
    rows = shape[0] // len(listed)
    present = [c for c in listed if c is not None]
    up = present[0].up.new_zeros(rows * len(listed), sum(c.rank for c in present))
    column = 0
    for number, change in enumerate(listed):
        if change is not None:
            up[number * rows : (number + 1) * rows, column : column + change.rank] = change.up
            column += change.rank
    return Change(torch.cat([c.down.reshape(c.rank, *shape[1:]) for c in present]), up)


class LoraLinear(nn.Linear):
    """(W + scale up @ down) x + b with W and b as they were, and `lora_up` zero at first; names of W and b stay.

    Args:
        linear: whose parameters are taken over, without a copy.
        rank: columns of up and rows of down; at most the smaller side of W is of use.
        scale: alpha / rank.
    """

    def __init__(self, linear: nn.Linear, rank: int, scale: float = 1.0) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias, self.scale = linear.weight, linear.bias, scale
        self.lora_down = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.lora_up = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        if rank:
            nn.init.kaiming_uniform_(self.lora_down, a=math.sqrt(5))

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        change = F.linear(F.linear(input, self.lora_down), self.lora_up)
        return super().forward(input) + (change if self.scale == 1 else self.scale * change)


class LowRankWeight(nn.Module):
    """W + up @ down whenever the weight of a layer is read, for layers of any kind (a parametrization of torch's)."""

    def __init__(self, change: Change) -> None:
        super().__init__()
        self.lora_down, self.lora_up = _fixed(change.down), _fixed(change.up)

    def forward(self, weight: Tensor) -> Tensor:
        """W -> W + up @ down."""
        return weight + Change(self.lora_down, self.lora_up).delta.reshape(weight.shape)


def _fixed(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)


def add_lora(module: nn.Module, rank: int, wanted: Callable[[str], bool], scale: float = 1.0) -> list[str]:
    """Replace the linear layers whose name is `wanted` by `LoraLinear`s, in place; returns their names."""
    found = [name for name, child in module.named_modules() if type(child) is nn.Linear and wanted(name)]
    for name in found:
        linear = module.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        module.set_submodule(name, LoraLinear(linear, rank, scale))
    return found


def merge_lora(state: Mapping[str, Tensor], scale: float = 1.0) -> dict[str, Tensor]:
    """A state dict with every change added to its weight: what the module without LoRA computes the same with."""
    merged = without_lora(state)
    for layer, change in changes_of(state, scale).items():
        merged[f"{layer}.weight"] = merged[f"{layer}.weight"] + change.delta
    return merged


def is_lora(name: str) -> bool:
    """Whether a parameter is one of a change."""
    return name.endswith((f".{DOWN}", f".{UP}"))


def without_lora(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a module as it is without changes."""
    return {name: value for name, value in state.items() if not is_lora(name)}


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of a module as it is without what stands beside its layers."""
    beside = {name: child for name, child in module.named_modules() if parametrize.is_parametrized(child, "weight")}
    state = without_lora(module.state_dict())
    for name in beside:
        original = state.pop(f"{name}.parametrizations.weight.original")
        state = {k: v for k, v in state.items() if not k.startswith(f"{name}.parametrizations.")}
        state[f"{name}.weight"] = original
    return state


@torch.no_grad()
def fold(module: nn.Module) -> None:
    """Add what stands beside the layers of a module to their weights, in place."""
    for name, child in list(module.named_modules()):
        if isinstance(child, LoraLinear):
            plain = nn.Linear(child.in_features, child.out_features, child.bias is not None, device="meta")
            child.weight.add_(Change(child.lora_down, child.lora_up).times(child.scale).delta)
            plain.weight, plain.bias = child.weight, child.bias
            module.set_submodule(name, plain.train(child.training))
        elif parametrize.is_parametrized(child, "weight"):
            parametrize.remove_parametrizations(child, "weight")


def changes_of(state: Mapping[str, Tensor], scale: float = 1.0) -> dict[str, Change]:
    """The changes in a state dict, by the names of their layers."""
    layers = [name.removesuffix(f".{UP}") for name in state if name.endswith(f".{UP}")]
    return {n: Change(state[f"{n}.{DOWN}"], state[f"{n}.{UP}"]).times(scale) for n in layers}


@torch.no_grad()
def change_layers(module: nn.Module, changes: Mapping[str, Change], *, merged: bool = True) -> None:
    """Add changes to the layers of a module, in place.

    Args:
        changes: by the names of layers, whose weights they fit.
        merged: add them to the weights; else they stay beside them: plain linear layers compute them beside their own
            outputs, and others whenever their weights are read, as some modules do it without calling them.
    """
    for name, change in changes.items():
        layer = module.get_submodule(name)
        weight = weight_of(layer)
        assert weight is not None
        change = Change(change.down.to(weight), change.up.to(weight))
        if merged:
            weight.add_(change.delta.reshape(weight.shape))
        elif isinstance(layer, LoraLinear):
            _extend(layer, change)
        elif type(layer) is nn.Linear:
            branch = LoraLinear(layer, 0)
            _extend(branch, change)
            module.set_submodule(name, branch.train(layer.training))
        else:
            parametrize.register_parametrization(layer, "weight", LowRankWeight(change))


def weight_of(layer: nn.Module) -> nn.Parameter | None:
    """The weight of a layer as it is without what stands beside it; None of a module without one."""
    if parametrize.is_parametrized(layer, "weight"):
        return layer.get_parameter("parametrizations.weight.original")
    return layer._parameters.get("weight")


def _extend(layer: LoraLinear, change: Change) -> None:
    """Put a change beside those that a layer has."""
    now = stacked([Change(layer.lora_down, layer.lora_up).times(layer.scale), change])
    layer.lora_down, layer.lora_up, layer.scale = _fixed(now.down), _fixed(now.up), 1.0


@torch.no_grad()
def low_rank(delta: Tensor, rank: int) -> tuple[Change, float]:
    """The best approximation of a weight's change by one of a rank, and the share of its squares that it keeps.

    Eckart and Young (1936): the first `rank` singular values and vectors; the squared error that is left is the sum of
    the squares of the others. Each side gets the square root of the values, so that both are of one size.

    Args:
        delta: (out, in), or (out, in, kh, kw).
        rank: more than the smaller side is of no use, and not taken.
    """
    matrix = delta.double().flatten(1)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    kept = min(rank, len(s))
    root = s[:kept].sqrt()
    change = Change((root[:, None] * v[:kept]).unflatten(1, delta.shape[1:]).float(), (u[:, :kept] * root).float())
    total = float(s.square().sum())
    return change, float(s[:kept].square().sum()) / total if total else 1.0
