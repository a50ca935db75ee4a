"""Videos longer than a model's clips: a canvas that is filled window by window, in any order of windows.

A window is a list of frame numbers of the canvas, as long as a training clip. What of it is known already is given to
the model and the rest is generated, so each of these is a plan of windows and nothing else: going on with a clip
(autoregressive, with overlap), going back, several passes (far keyframes first, then what lies between; Ho et al. 2022,
Video Diffusion Models, section 3.1), closing a loop, and completing a clip of any length.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kinolab.errors import InputError


class Canvas:
    """A video (B, 3, T, H, W) of which the pixels with mask 0 in (B, 1, T, H, W) are known; the rest is to be made."""

    def __init__(self, video: Tensor, mask: Tensor) -> None:
        self.video, self.mask = video.clone(), mask.clone()

    @property
    def all(self) -> list[int]:
        """The numbers of all frames."""
        return list(range(self.video.shape[2]))

    def window(self, frames: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Video and mask of a window: what is known of it is given."""
        return self.video[:, :, list(frames)], self.mask[:, :, list(frames)]

    def put(self, frames: Sequence[int], made: Tensor) -> None:
        """Take over what a window generated where nothing was known, and call it known."""
        video, mask = self.window(frames)
        self.video[:, :, list(frames)] = torch.where(mask == 0, video, made.to(video))
        self.mask[:, :, list(frames)] = 0

    def missing(self, frames: Sequence[int]) -> bool:
        """Whether anything of a window is still to be made."""
        return bool((self.mask[:, :, list(frames)] != 0).any())


def sliding(total: int, window: int, overlap: int) -> list[list[int]]:
    """Windows from left to right that cover `total` frames, each sharing `overlap` frames or more with the one before.

    The last one ends with the video, so that it may overlap by more.

    Raises:
        InputError: unless 1 <= overlap < window and the video is at least one window long.
    """
    if not 1 <= overlap < window:
        raise InputError(f"expected an overlap of 1 to {window - 1} frames of the model's {window}, got {overlap}")
    if total < window:
        raise InputError(f"expected a video of at least the model's {window} frames, got {total}")
    starts = list(range(0, total - window + 1, window - overlap))
    if starts[-1] + window < total:
        starts.append(total - window)
    return [list(range(start, start + window)) for start in starts]


def outward(windows: Sequence[list[int]], mask: Tensor) -> list[list[int]]:
    """The same windows, those with something given first, then the others by their distance from them, so that each
    has something to go on from; mask (T, H, W)."""
    some = (mask == 0).flatten(1).any(1)
    with_given = [k for k, frames in enumerate(windows) if bool(some[frames].any())]
    distance = {k: min((abs(k - g) for g in with_given), default=k) for k in range(len(windows))}
    return [windows[k] for k in sorted(range(len(windows)), key=lambda k: (distance[k], k))]


def backward(total: int, window: int, overlap: int) -> list[list[int]]:
    """Windows from right to left: what lies before is generated."""
    return [[total - 1 - frame for frame in reversed(frames)] for frames in sliding(total, window, overlap)]


def hierarchical(total: int, window: int, stride: int, overlap: int, between: int | None = None) -> list[list[int]]:
    """First windows over every `stride`-th frame, then windows over all frames that are held by those keyframes.

    Windows share `overlap` frames, those of the second pass `between`, where it is another number. The total is to be
    1 + a multiple of the stride, so that the last frame is a keyframe.

    Raises:
        InputError: where it is not, or the keyframes are fewer than a window.
    """
    if stride < 2 or (total - 1) % stride:
        near = (total - 1) // max(stride, 2) * max(stride, 2) + 1
        raise InputError(
            f"expected a stride of 2 or more and 1 + stride*k frames, got {stride} and {total}; use {near}"
        )
    keyframes = list(range(0, total, stride))
    if len(keyframes) < window:
        raise InputError(
            f"{total} frames have {len(keyframes)} keyframes at stride {stride}, fewer than the model's {window}: "
            f"use a smaller stride, or {1 + stride * (window - 1)} frames or more"
        )
    far = [[keyframes[k] for k in frames] for frames in sliding(len(keyframes), window, overlap)]
    return far + sliding(total, window, overlap if between is None else between)


def looped(total: int, window: int, overlap: int) -> list[list[int]]:
    """Windows that cover a video whose end goes over into its beginning; the last one joins the two.

    Raises:
        InputError: where the video is too short for a join that has something given on both sides.
    """
    if total < window + 1 or 2 * overlap >= window:
        raise InputError(
            f"a loop needs more than the model's {window} frames and an overlap below {window / 2:g}, "
            f"got {total} frames and an overlap of {overlap}"
        )
    gap = window - 2 * overlap
    windows = sliding(total - gap, window, overlap) if total - gap >= window else [list(range(window))]
    end = max(max(frames) for frames in windows) + 1
    join = [(end - overlap + k) % total for k in range(window)]
    return [*windows, join]
