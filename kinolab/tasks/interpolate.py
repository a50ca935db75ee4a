"""Interpolation: single frames anywhere in time are given and those between (and around) them are generated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kinolab.errors import InputError


def keyframe_mask(frames: int, height: int, width: int, keyframes: Sequence[int]) -> Tensor:
    """(T, H, W): the frames of the given numbers are given; -1 is the last frame.

    Raises:
        InputError: for a number outside the video, or where none or all frames are given.
    """
    outside = [k for k in keyframes if not -frames <= k < frames]
    if outside:
        raise InputError(f"keyframe {outside[0]} is outside a video of {frames} frames: expected 0 to {frames - 1}")
    given = sorted({k % frames for k in keyframes})
    if not given:
        raise InputError("no keyframe was given; expected at least one")
    if len(given) == frames:
        raise InputError(f"all {frames} frames are given: nothing is left to generate")
    mask = torch.ones(frames, height, width)
    mask[given] = 0
    return mask


def every_nth(frames: int, n: int) -> list[int]:
    """The numbers 0, n, 2n, ... of T frames; n - 1 frames are missing between two of them."""
    if n < 2:
        raise InputError(f"expected every 2nd frame or fewer, got every {n}")
    return list(range(0, frames, n))


def draw_interpolate(
    frames: int, height: int, width: int, generator: torch.Generator, every: Sequence[int] = ()
) -> Tensor:
    """Every n-th frame with n from 2 to 8, a random set of frames, or a block at either end (a bridge).

    every: the only n, from the first frame on; of several one is drawn.
    """
    if frames == 1:
        return torch.ones(1, height, width)
    if every:
        pick = int(torch.randint(len(every), (), generator=generator)) if len(every) > 1 else 0
        return keyframe_mask(frames, height, width, every_nth(frames, every[pick]))
    kind = int(torch.randint(3, (), generator=generator))
    if kind == 0:
        n = int(torch.randint(2, min(8, frames) + 1, (), generator=generator))
        start = int(torch.randint(n, (), generator=generator)) if torch.rand((), generator=generator) < 0.3 else 0
        given = list(range(start, frames, n))
    elif kind == 1:
        count = int(torch.randint(1, max(2, frames // 2 + 1), (), generator=generator))
        given = torch.randperm(frames, generator=generator)[:count].tolist()
    else:
        longest = max(1, (frames - 1) // 2)
        first, last = torch.randint(1, longest + 1, (2,), generator=generator).tolist()
        given = [*range(first), *range(frames - last, frames)]
    if len(set(given)) == frames:
        given = given[:-1]
    return keyframe_mask(frames, height, width, given)
