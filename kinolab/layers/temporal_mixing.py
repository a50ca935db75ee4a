"""Layers over time that stand behind layers of images, and how both are mixed (Stable Video Diffusion).

Parameter names are those of the diffusers library. Shapes: B batch, C channels, T frames, E width of an embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinolab.layers.normalization import GroupNorm, add, silu


class Mixer(nn.Module):
    """alpha * a + (1 - alpha) * b, with alpha = sigmoid(mix_factor), one learned number.

    Args:
        factor: its value before training.
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.mix_factor = nn.Parameter(torch.tensor([factor]))

    def forward(self, a: Tensor, b: Tensor, only_a: Tensor | None = None) -> Tensor:
        """Two branches of one shape; `only_a` is bool and broadcasts against them: there alpha is 1."""
        alpha = self.mix_factor.sigmoid().to(a.dtype)
        if only_a is not None:
            return torch.where(only_a, a, torch.lerp(b, a, alpha))
        return torch.lerp(b, a, alpha)


class TimeConvolution(nn.Module):
    """A residual block with kernels 3 x 1 x 1: norms over all frames, and an embedding of each frame if it has one.

    Args:
        width: C. time_width: E; 0 = none is told.
    """

    def __init__(self, width: int, groups: int, *, eps: float, time_width: int = 0) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, width, scope="clip", eps=eps)
        self.conv1 = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0))
        if time_width:
            self.time_emb_proj = nn.Linear(time_width, width)
        self.norm2 = GroupNorm(groups, width, scope="clip", eps=eps)
        self.conv2 = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0))

    @torch.no_grad()
    def reset(self) -> None:
        """Let it begin as the identity."""
        self.conv2.weight.zero_()
        if self.conv2.bias is not None:
            self.conv2.bias.zero_()

    def forward(self, x: Tensor, time: Tensor | None = None, told: Tensor | None = None) -> Tensor:
        """x (B, C, T, H, W), time (B, 1 or T, E) after its SiLU -> (B, C, T, H, W); told: more of x's shape that the
        second convolution is told of."""
        more = None if told is None else told.flatten(3)
        return self._rows(x.flatten(3), time, more).unflatten(3, x.shape[3:])

    def over_places(self, x: Tensor, time: Tensor | None = None, told: Tensor | None = None) -> Tensor:
        """The same of tokens x and told (B, T, S, C): a channels-last picture of T rows and S columns."""
        more = None if told is None else told.permute(0, 3, 1, 2)
        return self._rows(x.permute(0, 3, 1, 2), time, more).permute(0, 2, 3, 1)

    def _rows(self, x: Tensor, time: Tensor | None, told: Tensor | None) -> Tensor:
        """x (B, C, T, S) with a clip's frames as the rows of a picture, whose statistics are the clip's."""
        h = _along_rows(self.conv1, silu(self.norm1(x)))
        if told is not None:
            h = add(h, told)
        if time is not None:
            h = add(h, self.time_emb_proj(time).transpose(1, 2)[..., None])  # (B, C, 1 or T, 1)
        return add(_along_rows(self.conv2, silu(self.norm2(h))), x)


def _along_rows(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """A convolution with the kernel 3 x 1 x 1 as one in two dimensions, for which processors have fast kernels."""
    return F.conv2d(x, conv.weight.squeeze(-1), conv.bias, padding=(1, 0))  # weight (C', C, 3, 1)
