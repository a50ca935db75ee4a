"""A codebook: every latent vector is replaced by the nearest of a fixed number of learned ones.

van den Oord et al., "Neural Discrete Representation Learning" (2017). For use, not for training: no gradient passes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kinolab.errors import InputError

DISTANCES_AT_ONCE = 2**24
"""Distances of vectors to codes are held in memory this many at a time (64 MB)."""


class Codebook(nn.Module):
    """`codes` vectors of `width`, uniform in +-1/codes at first, as VQGAN has it."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, width)
        nn.init.uniform_(self.embedding.weight, -1.0 / codes, 1.0 / codes)

    @property
    def bits(self) -> float:
        """Bits of one code."""
        return math.log2(self.embedding.num_embeddings)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """The codes (B, T, H, W), int64, of vectors (B, D, T, H, W): the nearest in Euclidean distance, in float32."""
        codes_ND = self.embedding.weight.float()
        vectors_LD = z.float().movedim(1, -1).reshape(-1, codes_ND.shape[1])
        lengths_N = codes_ND.square().sum(1)
        chunks = vectors_LD.split(max(1, DISTANCES_AT_ONCE // len(codes_ND)))
        with torch.autocast(z.device.type, enabled=False):
            # |z - e|^2 without |z|^2, which is the same for all codes.
            found = [torch.addmm(lengths_N, part, codes_ND.T, alpha=-2).argmin(1) for part in chunks]
        return torch.cat(found).view(z.shape[0], *z.shape[2:])

    def look_up(self, indices: Tensor) -> Tensor:
        """Codes (B, T, H, W) -> their vectors (B, D, T, H, W).

        Raises:
            InputError: for another number of dimensions, a type that holds no integers, or a code that there is not.
        """
        count = self.embedding.num_embeddings
        if indices.ndim != 4 or indices.is_floating_point() or indices.is_complex():
            raise InputError(f"expected codes (B, T, H, W) of integers, got {tuple(indices.shape)} of {indices.dtype}")
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < count:
            raise InputError(f"expected codes 0 to {count - 1}, got {int(indices.min())} to {int(indices.max())}")
        vectors: Tensor = self.embedding(indices.long())
        return vectors.movedim(-1, 1)
