"""Animation: one image or several, of any origin, stand at chosen times and the video around them is generated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.tasks.interpolate import keyframe_mask


def place_images(images: Sequence[Tensor], positions: Sequence[int], frames: int) -> tuple[Tensor, Tensor]:
    """Images (3, H, W) of one size at the frames `positions`: video (3, T, H, W), grey elsewhere, and mask (T, H, W).

    Raises:
        InputError: where there are not as many different positions as images, or one is outside the video.
    """
    if len(images) != len(positions):
        raise InputError(f"expected a position for each of {len(images)} images, got {len(positions)}")
    height, width = images[0].shape[1:]
    mask = keyframe_mask(frames, height, width, positions)
    if len({p % frames for p in positions}) < len(positions):
        raise InputError(f"two images stand at the same frame: positions {', '.join(map(str, positions))}")
    video = torch.zeros(3, frames, height, width)
    for image, position in zip(images, positions, strict=True):
        video[:, position] = image
    return video, mask


def draw_animate(frames: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """The first frame alone (half of the draws), the last one alone, or both."""
    if frames == 1:
        return torch.ones(1, height, width)
    u = float(torch.rand((), generator=generator))
    given = [0] if u < 0.5 or frames == 2 else [-1] if u < 0.75 else [0, -1]
    return keyframe_mask(frames, height, width, given)
