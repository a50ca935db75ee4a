"""LoRA: linear layers that stay as they are and learn a change of low rank (Hu et al., 2021, arXiv:2106.09685)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoraLinear(nn.Linear):
    """(W + up @ down) x + b with W and b as they were, and `lora_up` zero at first; names of W and b stay the same.

    Args:
        linear: whose parameters are taken over, without a copy.
        rank: columns of up and rows of down; at most the smaller side of W is of use.
    """

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight = linear.weight
        self.bias = linear.bias
        self.lora_down = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.lora_up = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_down, a=math.sqrt(5))

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return super().forward(input) + F.linear(F.linear(input, self.lora_down), self.lora_up)


def add_lora(module: nn.Module, rank: int, wanted: Callable[[str], bool]) -> list[str]:
    """Replace the linear layers whose name is `wanted` by `LoraLinear`s, in place; returns their names."""
    found = [name for name, child in module.named_modules() if type(child) is nn.Linear and wanted(name)]
    for name in found:
        module.set_submodule(name, LoraLinear(module.get_submodule(name), rank))  # type: ignore[arg-type]
    return found


def merge_lora(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with every change added to its weight: what the module without LoRA computes the same with."""
    merged = {name: value for name, value in state.items() if not name.endswith((".lora_up", ".lora_down"))}
    for name, up in state.items():
        if name.endswith(".lora_up"):
            layer = name.removesuffix("lora_up")
            merged[f"{layer}weight"] = merged[f"{layer}weight"] + torch.mm(up, state[f"{layer}lora_down"])
    return merged
