"""LoRA: layers that stay as they are and have a change of low rank beside them (Hu et al., 2021, arXiv:2106.09685).

Equation 3 of the paper: h = W x + (alpha / r) B A x. A is `lora_down` (r, in), B is `lora_up` (out, r). Of a
convolution A has the kernel's shape, (r, in, kh, kw), and B is a convolution of 1 x 1 (as in LoCon).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinolab.layers.causal_conv import FrameConv2d
from kinolab.layers.patchify import PatchEmbed

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


def joined(changes: Iterable[Change | None], rows: int, like: Tensor) -> Change:
    """One change of a weight that holds several of a file's one after the other, each of `rows` rows.

    None = that one is not changed; `like` is the weight. Exact: `up` is a block for each.
    """
    listed = list(changes)
    present = [c for c in listed if c is not None]
    up = present[0].up.new_zeros(rows * len(listed), sum(c.rank for c in present))
    column = 0
    for number, change in enumerate(listed):
        if change is not None:
            up[number * rows : (number + 1) * rows, column : column + change.rank] = change.up
            column += change.rank
    return Change(torch.cat([c.down.reshape(c.rank, *like.shape[1:]) for c in present]), up)


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
        _begin(self)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        change = F.linear(F.linear(input, self.lora_down), self.lora_up)
        return super().forward(input) + (change if self.scale == 1 else self.scale * change)


class LoraConv2d(nn.Conv2d):
    """The same of a convolution: beside it one of its kernel to `rank` channels, and one of 1 x 1 from them."""

    def __init__(self, conv: nn.Conv2d, rank: int, scale: float = 1.0) -> None:
        same = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "padding_mode")
        values: dict[str, Any] = {name: getattr(conv, name) for name in same}
        super().__init__(**values, bias=conv.bias is not None, device="meta")
        self.weight, self.bias, self.scale = conv.weight, conv.bias, scale
        self.lora_down = nn.Parameter(conv.weight.new_empty(rank, *conv.weight.shape[1:]))
        self.lora_up = nn.Parameter(conv.weight.new_zeros(conv.out_channels, rank))
        _begin(self)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # Called by forward, in which a class may fold frames into the batch before.
        inner = super()._conv_forward(input, self.lora_down, None)  # (B, r, H', W')
        change = F.conv2d(inner, self.lora_up[:, :, None, None])
        return super()._conv_forward(input, weight, bias) + (change if self.scale == 1 else self.scale * change)


class LoraFrameConv2d(LoraConv2d, FrameConv2d):
    """The same of a convolution of every frame."""


LoraLayer = LoraLinear | LoraConv2d


def _begin(layer: LoraLayer) -> None:
    """The values of a change that is to be trained, as peft draws them; one of no rank draws nothing."""
    if len(layer.lora_down):
        nn.init.kaiming_uniform_(layer.lora_down, a=math.sqrt(5))


BRANCHES: dict[type[nn.Module], Callable[..., LoraLayer]] = {
    nn.Linear: LoraLinear,
    nn.Conv2d: LoraConv2d,
    FrameConv2d: LoraFrameConv2d,
}
"""Layers that can have a change beside them, and what they become."""
BY_WEIGHT = (PatchEmbed,)
"""Modules that read the weights of the layers inside instead of calling them: a change can only be added to those."""


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


def changes_of(state: Mapping[str, Tensor], scale: float = 1.0) -> dict[str, Change]:
    """The changes in a state dict, by the names of their layers."""
    layers = [name.removesuffix(f".{UP}") for name in state if name.endswith(f".{UP}")]
    return {n: Change(state[f"{n}.{DOWN}"], state[f"{n}.{UP}"]).times(scale) for n in layers}


@torch.no_grad()
def change_layers(module: nn.Module, changes: Mapping[str, Change], *, merged: bool = True) -> list[str]:
    """Add changes to the layers of a module, in place.

    Args:
        changes: by the names of layers, whose weights they fit.
        merged: add them to the weights; else they stay beside their layers, where that is possible.

    Returns:
        The layers that they were added to, of which more may be than asked for: those in `BY_WEIGHT`, and
        convolutions over time.
    """
    added = []
    for name, change in changes.items():
        layer = module.get_submodule(name)
        weight = layer.get_parameter("weight")
        change = Change(change.down.to(weight), change.up.to(weight))
        make = None if merged else _branch_of(module, name)
        if isinstance(layer, LoraLinear | LoraConv2d) and not merged:
            _extend(layer, change)
        elif make is not None:
            branch = make(layer, 0)
            _extend(branch, change)
            module.set_submodule(name, branch.train(layer.training))
        else:
            weight.add_(change.delta.reshape(weight.shape))
            added.append(name)
    return added


def _branch_of(module: nn.Module, name: str) -> Callable[..., LoraLayer] | None:
    """What a layer becomes that has a change beside it; None where it can't have one."""
    layer, parent = module.get_submodule(name), module.get_submodule(name.rpartition(".")[0])
    grouped = isinstance(layer, nn.Conv2d) and layer.groups > 1
    return None if grouped or isinstance(parent, BY_WEIGHT) else BRANCHES.get(type(layer))


def _extend(layer: LoraLayer, change: Change) -> None:
    """Put a change beside those that a layer has."""
    now = stacked([Change(layer.lora_down, layer.lora_up).times(layer.scale), change])
    layer.lora_down, layer.lora_up = (nn.Parameter(value, requires_grad=False) for value in now)
    layer.scale = 1.0


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
