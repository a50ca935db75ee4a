"""Layers over time for the slots of a U-Net: convolutions over frames, and transformers along each place's track.

Shapes: B batch, T frames, S places of a frame, C channels, D width of a transformer. Frames are (B, T, S, C).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinolab.errors import InputError
from kinolab.layers.normalization import GroupNorm, NormScope, add, silu
from kinolab.layers.slots import Clip, TimeLayer
from kinolab.layers.unet_attention import GatedMlp, QkvAttention


def norm_frames(norm: GroupNorm, x: Tensor) -> Tensor:
    """Frames normalised each by itself, or all of a clip together, as the norm's scope says."""
    images = x.flatten(0, 1)[:, None] if norm.scope == "frame" else x  # (B * T, 1, S, C), or (B, T, S, C)
    found = norm.of_images(images.permute(0, 3, 1, 2))  # a view of channels-last images, which are normalised as fast
    return found.permute(0, 2, 3, 1).reshape(x.shape)


def convolve_frames(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """A convolution over frames, kernel (k, 1, 1): as one of two dimensions, frames and places, which is faster."""
    padding = conv.padding
    assert isinstance(padding, tuple)
    # By x (B, C, T, S) and a weight (C', C, k, 1): the rows of the picture are frames.
    found = F.conv2d(x.permute(0, 3, 1, 2), conv.weight.squeeze(-1), conv.bias, padding=(padding[0], 0))
    return found.permute(0, 2, 3, 1)


class NormedConvolution(nn.Module):
    """Norm over all frames, SiLU, and a convolution over three frames."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, width, eps=1e-5, scope="clip")
        self.conv = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, S, C) -> (B, T, S, C)."""
        return convolve_frames(self.conv, silu(norm_frames(self.norm, x)))


class TemporalBlock(nn.Module):
    """Two self-attentions over the frames of a track and a gated MLP, each normalised and added."""

    def __init__(self, dim: int, heads: int, head_size: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = QkvAttention(dim, heads, head_size)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = QkvAttention(dim, heads, head_size)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = GatedMlp(dim)

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """Tracks (R, T, D); positions (T, D) are added to what both attentions read -> (R, T, D)."""
        for norm, attention in ((self.norm1, self.attn1), (self.norm2, self.attn2)):
            h = norm(x)
            x = add(attention(h if positions is None else add(h, positions.to(h.dtype))), x)
        return add(self.ff(self.norm3(x)), x)


class TemporalTransformer(TimeLayer):
    """Norm, a projection in, blocks along each place's track, a projection out that starts at zero, the input added.

    Parameter names are those of diffusers' TransformerTemporalModel.

    Args:
        width: C. heads, head_size: of the attention; D is their product.
        scope: statistics of the norm, of each frame or over all.
        positions: frames that the fixed table of positions tells apart; 0 = frames have no positions.
        depth: blocks.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_size: int,
        groups: int,
        *,
        scope: NormScope,
        positions: int = 0,
        depth: int = 1,
    ) -> None:
        super().__init__()
        D = heads * head_size
        self.positions = positions
        self.norm = GroupNorm(groups, width, eps=1e-6, scope=scope)
        self.proj_in = nn.Linear(width, D)
        self.transformer_blocks = nn.ModuleList(TemporalBlock(D, heads, head_size) for _ in range(depth))
        self.proj_out = nn.Linear(D, width)
        self.reset()

    def reset(self) -> None:
        """Let it begin as the identity."""
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor, clip: Clip) -> Tensor:
        """(B, T, S, C) -> (B, T, S, C).

        Raises:
            InputError: for more frames than there are positions.
        """
        B, T, S, _ = x.shape
        if self.positions and self.positions < T:
            raise InputError(f"expected at most {self.positions} frames, one for each position in time, got {T}")
        h = norm_frames(self.norm, x).transpose(1, 2).reshape(B * S, T, -1)
        h = self.proj_in(h)
        table = interleaved_sincos(T, h.shape[-1]).to(h.device) if self.positions else None
        for block in self.transformer_blocks:
            h = block(h, table)
        h = self.proj_out(h).unflatten(0, (B, S)).transpose(1, 2)
        return x + h if torch.is_grad_enabled() else x.add_(h)


def interleaved_sincos(frames: int, dim: int) -> Tensor:
    """Positions (frames, dim) of whole frames, sine and cosine of a frequency side by side (Vaswani et al. 2017)."""
    omega = 10000.0 ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = torch.arange(frames, dtype=torch.float64)[:, None] * omega
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :dim].float()  # (T, dim / 2, 2) -> (T, dim)
