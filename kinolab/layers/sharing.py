"""Context parallelism: processes that compute one clip together, each of them some places of every frame.

All that works on tokens by themselves, or along time at each place, needs no other process. Attention that reads other
places exchanges twice (DeepSpeed-Ulysses, Jacobs et al. 2023, arXiv:2309.14509, section 3): queries, keys and values of
its own places and all heads become those of all places and its own heads, and what was attended to goes back. A frame's
places need not be a multiple of the processes: those that fill up are read by nobody.

Gradients: every exchange passes them back by its adjoint, so that a parameter's gradients, averaged over the processes
of all clips as data-parallel training does anyway, are those of one process.

Shapes: B batch, T frames, S places of a frame, D width, N heads of size d; c processes, w = ceil(S / c) places of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from kinolab.errors import InputError


@dataclass(frozen=True)
class ContextRanks:
    """The processes that compute a clip together: their group, how many they are, and which one this is."""

    group: Any
    size: int
    rank: int


@dataclass(frozen=True)
class SharedPlaces:
    """The places of frames of S of them, as `ranks` share them: process k has those from k * w on."""

    ranks: ContextRanks
    places: int

    @property
    def width(self) -> int:
        """w: how many places a process has, those that fill up among them."""
        return -(-self.places // self.ranks.size)

    def own(self, x: Tensor, dim: int = 2) -> Tensor:
        """This process's places of a tensor that has all S along `dim`."""
        filled = self._filled(x, dim)
        return filled.narrow(dim, self.ranks.rank * self.width, self.width)

    def whole(self, x: Tensor, dim: int = 2) -> Tensor:
        """All S places of a tensor of which every process has w along `dim`."""
        parts: Tensor = _Gather.apply(x.movedim(dim, 0), self.ranks)  # (c * w, ...)
        return parts.movedim(0, dim).narrow(dim, 0, self.places)

    def to_heads(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """(B, T, w, N, d) each, of one shape -> (B, T, S, N / c, d): all places, this process's heads.

        Raises:
            InputError: where the heads can't be shared.
        """
        self.check_heads(tensors[0].shape[-2])
        # (K, B, T, w, c, N / c, d) -> (c, K, B, T, w, N / c, d): the heads of process k are number k
        sent = torch.stack(tensors).unflatten(-2, (self.ranks.size, -1)).movedim(-3, 0)
        got: Tensor = _Exchange.apply(sent, self.ranks)  # (c, K, B, T, w, N / c, d): places by process
        joined = got.movedim(0, 3).flatten(3, 4)[:, :, :, : self.places]  # (K, B, T, S, N / c, d)
        return tuple(joined.unbind(0))

    def to_places(self, heads: Tensor) -> Tensor:
        """(B, T, S, N / c * d) -> (B, T, w, N * d): this process's places, all heads."""
        sent = self._filled(heads, 2).unflatten(2, (self.ranks.size, -1)).movedim(2, 0)  # (c, B, T, w, N / c * d)
        got: Tensor = _Exchange.apply(sent, self.ranks)
        return got.movedim(0, -2).flatten(-2)

    def own_heads(self, x: Tensor) -> Tensor:
        """(..., N, d) that every process has -> its own heads (..., N / c, d)."""
        count = x.shape[-2] // self.ranks.size
        return x.narrow(-2, self.ranks.rank * count, count)

    def all_heads(self, heads: Tensor) -> Tensor:
        """(..., N / c * d) -> (..., N * d): the heads of all processes."""
        parts: Tensor = _Gather.apply(heads[None], self.ranks)  # (c, ..., N / c * d)
        return parts.movedim(0, -2).flatten(-2)

    def check_heads(self, heads: int) -> None:
        """Raises InputError where so many heads can't be shared alike."""
        if heads % self.ranks.size:
            raise InputError(
                f"training.parallel.context={self.ranks.size}: expected a divisor of the {heads} heads of every "
                "attention over places; take fewer context processes, or another number of heads"
            )

    def _filled(self, x: Tensor, dim: int) -> Tensor:
        """A tensor with c * w places along `dim`: zeros behind the S that are there."""
        missing = self.width * self.ranks.size - x.shape[dim]
        if not missing:
            return x
        after = x.ndim - 1 - dim % x.ndim
        return F.pad(x, (0, 0) * after + (0, missing))


class _Exchange(torch.autograd.Function):
    """Part k of (c, ...) goes to process k; what comes from process k is part k. Its own adjoint."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: ContextRanks) -> Tensor:
        ctx.ranks = ranks
        return _exchanged(x, ranks)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _exchanged(gradients[0], ctx.ranks), None


def _exchanged(x: Tensor, ranks: ContextRanks) -> Tensor:
    x = x.contiguous()
    got = torch.empty_like(x)
    dist.all_to_all_single(got, x, group=ranks.group)
    return got


class _Gather(torch.autograd.Function):
    """(n, ...) of every process -> (c * n, ...) in all of them; the adjoint adds what all of them ask of each part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: ContextRanks) -> Tensor:
        ctx.ranks = ranks
        x = x.contiguous()
        got = x.new_empty((ranks.size * len(x), *x.shape[1:]))
        dist.all_gather_into_tensor(got, x, group=ranks.group)
        return got

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        ranks, gradient = ctx.ranks, gradients[0].contiguous()
        mine = gradient.new_empty((len(gradient) // ranks.size, *gradient.shape[1:]))
        dist.reduce_scatter_tensor(mine, gradient, group=ranks.group)
        return mine, None
