"""Frames moved over their own grid, by whole places and parts of one."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Edges = Literal["mirror", "repeat"]
"""What comes in at an edge: the mirror image of what lies behind it, or its outermost place again and again."""


def translated(x: Tensor, right: float, down: float, *, blend: bool, edges: Edges = "mirror") -> Tensor:
    """(..., H, W) moved by so many places: what stood at (row, column) stands at (row + down, column + right).

    blend: read between two places by their distances, as bilinear sampling does; else move by whole places, the nearest
    to what is asked, and a half as one more.
    """
    return _along(_along(x, right, -1, blend, edges), down, -2, blend, edges)


def blended_share(right: float, down: float) -> float:
    """The share of white noise's variance that `translated` with `blend` leaves, away from the edges."""
    share = 1.0
    for shift in (right, down):
        part = shift - math.floor(shift)
        share *= part**2 + (1 - part) ** 2
    return share


def _along(x: Tensor, shift: float, dim: int, blend: bool, edges: Edges) -> Tensor:
    n = x.shape[dim]
    places = torch.arange(n, device=x.device)
    # Every place is read as far from itself: rounded one by one, halves would go to either side in turn.
    whole = math.floor(shift if blend else shift + 0.5)
    inside = _mirrored if edges == "mirror" else _repeated
    near = x.index_select(dim, inside(places - whole, n))
    part = shift - whole
    if not blend or part == 0:
        return near
    return (1 - part) * near + part * x.index_select(dim, inside(places - whole - 1, n))


def _mirrored(index: Tensor, n: int) -> Tensor:
    """Indices into n places that are repeated to and fro: ..., 1, 0, 0, 1, ..., n - 1, n - 1, ..."""
    index = index % (2 * n)
    return torch.where(index < n, index, 2 * n - 1 - index)


def _repeated(index: Tensor, n: int) -> Tensor:
    """Indices into n places whose ends are repeated: ..., 0, 0, 1, ..., n - 1, n - 1, ..."""
    return index.clamp(0, n - 1)
