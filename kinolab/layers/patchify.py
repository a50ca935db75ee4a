"""Latents (B, C, T, H, W) <-> tokens (B, T', S, ...) of frame patches or tubelets.

Shapes: B batch, C channels, T frames, T' = T / temporal_patch, S = (H / patch) * (W / patch) tokens per frame, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Linear embedding of non-overlapping patches (temporal_patch 1) or tubelets (temporal_patch > 1).

    `proj` holds the weights in a convolution's layout, (D, C, p, p) or (D, C, pt, p, p), as public checkpoints do; a
    convolution with stride = kernel is a matrix product over patches, which is how it is computed.
    """

    def __init__(self, channels: int, dim: int, patch: int, temporal_patch: int = 1) -> None:
        super().__init__()
        self.patch, self.temporal_patch = patch, temporal_patch
        if temporal_patch == 1:
            self.proj: nn.Conv2d | nn.Conv3d = nn.Conv2d(channels, dim, patch, patch)
        else:
            kernel = (temporal_patch, patch, patch)
            self.proj = nn.Conv3d(channels, dim, kernel, kernel)

    def forward(self, z: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, T', S, D)."""
        patches = patchify(z, self.patch, self.temporal_patch)
        # The weight is (D, C * pt * p * p), in the order that `patchify` gives a token's values.
        return F.linear(patches.to(self.proj.weight.dtype), self.proj.weight.flatten(1), self.proj.bias)


def patchify(z: Tensor, patch: int, temporal_patch: int = 1) -> Tensor:
    """(B, C, T, H, W) -> (B, T', S, C * pt * p * p), a token's values ordered as (C, pt, p, p)."""
    B, C, T, H, W = z.shape
    t, h, w = T // temporal_patch, H // patch, W // patch
    blocks = z.reshape(B, C, t, temporal_patch, h, patch, w, patch)
    # (B, C, t, pt, h, p, w, p) -> (B, t, h, w, C, pt, p, p)
    return blocks.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(B, t, h * w, C * temporal_patch * patch * patch)


def unpatchify(x: Tensor, grid: tuple[int, int], patch: int, temporal_patch: int = 1) -> Tensor:
    """(B, T', S, pt * p * p * C), a token's values ordered as (pt, p, p, C) -> (B, C, T, H, W); grid = (H, W) / p."""
    B, t = x.shape[:2]
    h, w = grid
    blocks = x.reshape(B, t, h, w, temporal_patch, patch, patch, -1)
    C = blocks.shape[-1]
    # (B, t, h, w, pt, p, p, C) -> (B, C, t, pt, h, p, w, p)
    return blocks.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(B, C, t * temporal_patch, h * patch, w * patch)
