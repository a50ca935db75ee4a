"""What a sample is held to by a method, where the denoiser itself takes nothing given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Residual = Callable[[Tensor], Tensor]
"""Clean latents (B, C, T, H, W) -> what of the given part they miss, as values (B, ...) whose squares are summed."""


@dataclass(frozen=True)
class Held:
    """`given` latents (B, C, T, H, W) count where `known` (B, 1, T, H, W) is True.

    `residual` is the error's root where it is not given - sample on the known latents.
    """

    given: Tensor
    known: Tensor
    residual: Residual | None = None
