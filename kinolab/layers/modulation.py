"""What the blocks of a diffusion transformer are made of beside attention: adaptive LayerNorm and the MLP.

Tokens are (B, T, S, D); a condition modulates them through tensors (B, 1 or T, 1, D) that broadcast, never repeated.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift in one pass (adaLN, DiT section 3.2)."""
    return torch.addcmul(shift, x, 1 + scale)


def gated_add(x: Tensor, gate: Tensor, update: Tensor) -> Tensor:
    """x + gate * update in one pass: the residual of an adaLN-Zero block."""
    return torch.addcmul(x, gate, update)


class Mlp(nn.Module):
    """Two linear layers with a tanh-approximated GELU between them: (..., D) -> (..., D)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class AdaptiveParameters(nn.Sequential):
    """SiLU and a linear layer that starts at zero: a condition (B, T, D) -> `count` tensors (B, T, 1, D).

    With zero weights every shift, scale and gate is zero, so that a block starts as the identity (adaLN-Zero).
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__(nn.SiLU(), nn.Linear(dim, count * dim))
        self.count = count
        self.reset()

    def reset(self) -> None:
        """Set the linear layer to zero."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, c: Tensor) -> Tensor:
        """(B, T, D) -> (count, B, T, 1, D); unpack it into shift, scale, gate, ..."""
        return super().forward(c).unflatten(-1, (self.count, 1, -1)).movedim(-3, 0)


class FinalLayer(nn.Module):
    """Norm, shift and scale, and a linear head that starts at zero: (B, T, S, D) -> (B, T, S, values).

    `modulation`: "block" = a modulation layer of its own, "single" = the condition plus a table of offsets, "none" =
    an affine norm.
    """

    def __init__(self, dim: int, values: int, modulation: Literal["block", "single", "none"]) -> None:
        super().__init__()
        self.modulation = modulation
        self.norm_final = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=modulation == "none")
        self.linear = nn.Linear(dim, values)
        if modulation == "block":
            self.adaLN_modulation = AdaptiveParameters(dim, 2)
        elif modulation == "single":
            self.scale_shift_table = nn.Parameter(torch.zeros(2, dim))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Tokens x (B, T, S, D), condition c (B, 1 or T, D)."""
        return self.linear(self.modulated(x, c))

    def modulated(self, x: Tensor, c: Tensor) -> Tensor:
        """What the linear head is given: (B, T, S, D)."""
        h = self.norm_final(x)
        if self.modulation == "block":
            h = modulate(h, *self.adaLN_modulation(c))
        elif self.modulation == "single":
            # (1, B, 1 or T, 1, D) + (2, 1, 1, 1, D): the rows of the table are shift and scale
            h = modulate(h, *(c[None, :, :, None] + self.scale_shift_table[:, None, None, None]))
        return h
