"""A learned bias of attention by the distance between two tokens, in buckets (Raffel et al. 2019, T5, section 2.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

BUCKETS, FARTHEST = 32, 32
"""Buckets of distances, half of them for each direction; all distances from `FARTHEST` on share the last."""


class RelativeBias(nn.Module):
    """A number for each head and distance: exact when near, by logarithmic buckets farther.

    As it knows distances alone, any number of frames can be attended to.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.table = nn.Embedding(BUCKETS, num_heads)

    def forward(self, frames: int) -> Tensor:
        """(N, T, T): for each query's frame (second) and each key's (third)."""
        place = torch.arange(frames, device=self.table.weight.device)
        ahead = place[None, :] - place[:, None]  # of the key, in frames
        half, exact = BUCKETS // 2, BUCKETS // 4  # a half for each direction, a half of that for exact distances
        distance = ahead.abs()
        # From 0 at `exact` to 1 at `FARTHEST`, so that buckets are even in the logarithm.
        share = torch.log(distance.clamp(min=1).float() / exact) / math.log(FARTHEST / exact)
        far = (exact + (share * (half - exact)).long()).clamp(max=half - 1)
        bucket = torch.where(distance < exact, distance, far) + half * (ahead > 0)
        return self.table(bucket).permute(2, 0, 1)  # (T, T, N) -> (N, T, T)
