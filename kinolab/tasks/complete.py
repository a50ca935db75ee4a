"""Completion: a part of the picture is generated, the same in all frames, moving, or different in every frame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kinolab.errors import InputError

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are not included."""


def box_mask(frames: int, height: int, width: int, boxes: Sequence[Box]) -> Tensor:
    """(T, H, W): what lies in any of the boxes is generated, in all frames.

    Raises:
        InputError: for no box, or one that is empty or not inside the picture.
    """
    if not boxes:
        raise InputError("no box was given; expected LEFT,TOP,RIGHT,BOTTOM in pixels")
    mask = torch.zeros(frames, height, width)
    for left, top, right, bottom in boxes:
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise InputError(
                f"box {left},{top},{right},{bottom}: expected LEFT,TOP,RIGHT,BOTTOM with 0 <= left < right <= {width} "
                f"and 0 <= top < bottom <= {height}"
            )
        mask[:, top:bottom, left:right] = 1
    return mask


def picture_mask(pictures: Tensor, frames: int) -> Tensor:
    """(T, H, W) from grey pictures (1 or T, H, W) in [0, 1]: what is brighter than a half is generated.

    Raises:
        InputError: where there are other than one or T pictures.
    """
    if pictures.shape[0] not in (1, frames):
        raise InputError(f"expected a mask of 1 or {frames} frames, as the video has, got {pictures.shape[0]}")
    return (pictures > 0.5).float().expand(frames, -1, -1).clone()


def draw_complete(frames: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """A resting box, a box that moves, an ellipse, or boxes that change from frame to frame.

    A box has a quarter to three quarters of the sides; in every fifth draw it is what is given instead.
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    kind = int(torch.randint(4, (), generator=generator))
    tall, wide = uniform(0.25, 0.75) * height, uniform(0.25, 0.75) * width
    start = (uniform(0, height - tall), uniform(0, width - wide))
    end = (uniform(0, height - tall), uniform(0, width - wide)) if kind in (1, 2) else start
    rows, columns = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    mask = torch.zeros(frames, height, width)
    for t in range(frames):
        share = t / max(frames - 1, 1)
        if kind == 3 and t % 4 == 1:
            start = end = (uniform(0, height - tall), uniform(0, width - wide))
        top, left = ((1 - share) * a + share * b for a, b in zip(start, end, strict=True))
        y, x = (rows - top - tall / 2) / (tall / 2), (columns - left - wide / 2) / (wide / 2)
        if kind == 2:
            mask[t] = (y[:, None] ** 2 + x[None] ** 2 <= 1).float()
        else:
            mask[t] = ((y.abs() <= 1)[:, None] & (x.abs() <= 1)[None]).float()
    return 1 - mask if uniform(0, 1) < 0.2 else mask
