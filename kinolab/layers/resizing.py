"""Videos made smaller, frame by frame, by the filters that low-resolution inputs are made with.

All but `nearest` take everything into account that a pixel stands for, so that no pattern appears that is not there.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kinolab.layers.normalization import fold_frames, unfold_frames

Filter = Literal["area", "bilinear", "bicubic", "nearest", "lanczos"]
LOBES = 3
"""Half the width of Lanczos' kernel, in pixels of what is made."""


def shrink(video: Tensor, size: tuple[int, int], filter: Filter) -> Tensor:
    """A video (B, C, T, H, W) at a smaller height and width, frame by frame."""
    frames = fold_frames(video)  # (B * T, C, H, W)
    if filter == "lanczos":
        rows, columns = (
            lanczos(before, after).to(frames) for before, after in zip(frames.shape[2:], size, strict=True)
        )
        small = rows @ frames @ columns.T
    elif filter in ("area", "nearest"):
        small = F.interpolate(frames, size, mode=filter)
    else:
        small = F.interpolate(frames, size, mode=filter, align_corners=False, antialias=True)
    return unfold_frames(small, len(video))


def enlarge(video: Tensor, size: tuple[int, int]) -> Tensor:
    """A video (B, C, T, h, w) at another height and width, frame by frame and linearly between pixels."""
    frames = F.interpolate(fold_frames(video), size, mode="bilinear", align_corners=False)
    return unfold_frames(frames, len(video))


def lanczos(before: int, after: int) -> Tensor:
    """The matrix (after, before) that makes a line shorter by Lanczos' kernel, sinc(x) sinc(x / 3) for |x| < 3.

    x counts pixels of what is made; every row is divided by its sum.
    """
    scale = max(before / after, 1.0)
    centres = (torch.arange(after, dtype=torch.float64) + 0.5) * (before / after)
    x = (torch.arange(before, dtype=torch.float64) + 0.5 - centres[:, None]) / scale
    weights = torch.where(x.abs() < LOBES, torch.sinc(x) * torch.sinc(x / LOBES), 0.0)
    return (weights / weights.sum(1, keepdim=True)).float()
