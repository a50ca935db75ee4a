"""Textured clips whose motion is known."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def texture(side: int, seed: int = 0, blur: int = 2) -> Tensor:
    """A smooth random pattern (3, side, side) in [-1, 1]."""
    noise = torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(seed))
    for _ in range(blur):
        noise = F.avg_pool2d(F.pad(noise, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    noise = (noise - noise.min()) / (noise.max() - noise.min())
    return noise[0] * 2 - 1


def panning(frames: int, step: tuple[int, int], side: int = 48, seed: int = 0) -> Tensor:
    """A clip (1, 3, T, side, side) of a texture of which what is at p goes to p + step (x, y) from frame to frame."""
    dx, dy = step
    room = frames * max(abs(dx), abs(dy), 1)
    pattern = texture(side + 2 * room, seed)
    cuts = [
        pattern[:, room - t * dy : room - t * dy + side, room - t * dx : room - t * dx + side] for t in range(frames)
    ]
    return torch.stack(cuts, dim=1)[None]


def travelling_box(frames: int, step: int, side: int = 96, box: int = 24, seed: int = 0) -> Tensor:
    """A clip (1, 3, T, side, side): a textured box goes to the right over a textured background."""
    clip = (texture(side, seed + 1) * 0.5)[:, None].repeat(1, frames, 1, 1)
    top = (side - box) // 2
    for t in range(frames):
        clip[:, t, top : top + box, 4 + t * step : 4 + t * step + box] = texture(box, seed + 2, blur=3)
    return clip[None]


def as_frames(video: Tensor) -> np.ndarray:
    """A clip (1, 3, T, H, W) -> (T, H, W, 3) uint8."""
    return ((video[0] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).contiguous().numpy()
