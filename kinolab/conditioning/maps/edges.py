"""Maps that need no other package: grey values, and how much they change from pixel to pixel."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from kinolab.conditioning.maps.base import ControlMap
from kinolab.contracts.table import KindConfig


def luminance(clip: Tensor) -> Tensor:
    """Grey pixels (3, T, H, W) of a clip, by the weights of BT.601: what remains is to find the colours."""
    weights = clip.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1, 1)
    return (clip * weights).sum(0, keepdim=True).expand(3, -1, -1, -1)


class LuminanceConfig(KindConfig):
    """Grey values."""

    kind: Literal["luminance"] = "luminance"


class Luminance(ControlMap):
    """The grey values of a clip."""

    Config = LuminanceConfig

    def make(self, clip: Tensor) -> Tensor:
        """See `luminance`."""
        return luminance(clip)


class EdgesConfig(KindConfig):
    """Sobel's gradient."""

    kind: Literal["edges"] = "edges"


class Edges(ControlMap):
    """How much the luminance changes from pixel to pixel, -1 = not at all: Sobel's gradient."""

    Config = EdgesConfig

    def make(self, clip: Tensor) -> Tensor:
        """The gradient's length (3, T, H, W)."""
        frames = luminance(clip)[:1].transpose(0, 1)
        across = clip.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
        kernels = across.new_empty(2, 1, 3, 3)
        kernels[0, 0], kernels[1, 0] = across, across.T
        gradient = F.conv2d(F.pad(frames, (1, 1, 1, 1), mode="replicate"), kernels).square().sum(1, keepdim=True).sqrt()
        # Half of the range between black and white, over two pixels, is as strong as an edge gets.
        return (4 * gradient - 1).clamp(max=1).transpose(0, 1).expand(3, -1, -1, -1)
