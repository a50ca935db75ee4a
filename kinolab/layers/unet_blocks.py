"""The convolutions of a U-Net of images that is told a time (Ho et al. 2020; Rombach et al. 2022).

Parameter names are those of the diffusers library. Frames are (N, C, H, W) with N = B * T; a clip's time embedding is
(B, 1 or T, E).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinolab.layers.normalization import GroupNorm, NormScope, add, fold_frames, silu, unfold_frames
from kinolab.layers.slots import Clip, Slots, filled, over_frames
from kinolab.layers.upsampling import double_space

WORTH_FOUR_TAPS = 256
"""Places of all frames from which doubling in one transposed convolution pays: below, making its weights costs more."""


def normalized(norm: GroupNorm, x: Tensor, batch: int) -> Tensor:
    """Frames (B * T, C, H, W) normalised per frame, or over the frames of each clip, as the norm's scope says."""
    return norm(x) if norm.scope == "frame" else fold_frames(norm(unfold_frames(x, batch)))


class TimedResnetBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))) + time))), with a 1x1 convolution on x where the width changes.

    Args:
        width_in, width: channels before and after.
        time_width: E.
        scope: statistics of the norms of each frame, or over all frames of a clip.
        slots: what stands behind its convolutions; none = nothing.
    """

    def __init__(
        self,
        width_in: int,
        width: int,
        time_width: int,
        groups: int,
        *,
        eps: float,
        scope: NormScope = "frame",
        slots: Slots | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, width_in, eps=eps, scope=scope)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.after_conv1, self.after_conv2 = (
            filled(None if slots is None else slots.after_conv(width)) for _ in range(2)
        )
        self.time_emb_proj = nn.Linear(time_width, width)
        self.norm2 = GroupNorm(groups, width, eps=eps, scope=scope)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(width_in, width, 1) if width_in != width else None

    def forward(self, x: Tensor, clip: Clip) -> Tensor:
        """(B * T, width_in, H, W) -> (B * T, width, H, W)."""
        h = over_frames(self.after_conv1, self.conv1(silu(normalized(self.norm1, x, clip.batch))), clip)
        time = self.time_emb_proj(clip.time).expand(-1, clip.frames, -1).flatten(0, 1)  # (B * T, width)
        h = add(h, time[:, :, None, None])
        h = over_frames(self.after_conv2, self.conv2(silu(normalized(self.norm2, h, clip.batch))), clip)
        return add(h, x if self.conv_shortcut is None else self.conv_shortcut(x))


class HalvingConv(nn.Module):
    """A strided convolution that halves the sides, rounding up; zeros are padded on all sides."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""
        return self.conv(x)


class DoublingConv(nn.Module):
    """Every place becomes 2 x 2 equal ones, then a convolution; of odd sizes the last row or column is left out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, C, h, w) -> (N, C, *size), each side twice as long or one less."""
        N, _, h, w = x.shape
        if size == (2 * h, 2 * w) and N * h * w >= WORTH_FOUR_TAPS:
            return double_space(x, self.conv.weight, self.conv.bias)
        return self.conv(F.interpolate(x, size=size))


def initialize_unet(model: nn.Module, *last: nn.Module) -> None:
    """Let every residual block and transformer begin as the identity, and the layers `last` at zero."""
    zeroed: list[Any] = list(last)
    for module in model.modules():
        if isinstance(module, TimedResnetBlock):
            zeroed.append(module.conv2)
    with torch.no_grad():
        for layer in zeroed:
            layer.weight.zero_()
            layer.bias.zero_()


def weights_like_frames(model: nn.Module) -> None:
    """Store the kernels of 2D convolutions channels-last, as the frames are: in another order every call of a small one
    turns its weights around, which takes longer than the convolution."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
