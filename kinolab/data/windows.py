"""Windows of a clip: which stored frames make each one, what the picture loses on the way, and reading them fast.

A window is an array of stored frame numbers, fixed when the folder is scanned; so a window read alone, and the same
window read in one pass over its file, hold the same frames.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from kinolab import video
from kinolab.errors import InputError

Resize = Literal["crop", "pad", "stretch"]

# Two windows further apart than this are read with a seek between them: usual files have a keyframe at least every
# 250 frames, so a seek decodes about half of that in vain.
SEEK_GAP = 125
# A stored rate within half a percent of a multiple of the asked one (29.97 for 30 or 10) is taken as that multiple:
# re-timing would only repeat or skip a frame now and then.
RATE_TOLERANCE = 0.005
TIME_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Timeline:
    """The moments of a stretch of a clip: `index` are stored frame numbers in order, at `fps` frames a second."""

    index: np.ndarray
    fps: float

    def every(self, interval: int) -> Timeline:
        """Every `interval`-th moment."""
        return self if interval == 1 else Timeline(self.index[::interval], self.fps / interval)


@dataclass(frozen=True)
class Reading:
    """How the frames of a file become those of windows: their (height, width), how the picture is fitted to it, the
    rate of a folder of images, and whether interlaced frames are made whole and seeks are to be trusted."""

    size: tuple[int, int]
    resize: Resize
    image_fps: float = video.IMAGE_FPS
    deinterlace: bool = False
    seek: bool = True


def frame_interval(times: np.ndarray) -> float:
    """Seconds between stored frames, by the median; 0 for a single frame."""
    return float(np.median(np.diff(times))) if len(times) > 1 else 0.0


def is_regular(times: np.ndarray) -> bool:
    """Whether all gaps between frames agree, to the rounding of containers that count milliseconds."""
    return video.is_regular(times.tolist())


def timeline(times: np.ndarray, fps: float | None, first: int = 0, last: int | None = None) -> Timeline:
    """The stored frames of [first, last) as they are (fps None), or those shown at the moments k / fps.

    Args:
        times: seconds of all stored frames, (N,), increasing.
        fps: the rate asked for.
        first, last: the stretch, in stored frames.
    """
    last = len(times) if last is None else last
    stretch = times[first:last]
    count, interval = len(stretch), frame_interval(stretch)
    if count < 2 or interval <= 0:
        return Timeline(np.arange(first, last), fps or 1.0)
    stored = (count - 1) / float(stretch[-1] - stretch[0])
    if fps is None:
        return Timeline(np.arange(first, last), stored)
    step = round(stored / fps)
    if step >= 1 and abs(stored / fps / step - 1) < RATE_TOLERANCE and is_regular(stretch):
        return Timeline(np.arange(first, last, step), fps)
    slack = min(0.0015, 0.1 * interval)  # of time stamps that are rounded to milliseconds
    moments = stretch[0] + np.arange(round((stretch[-1] - stretch[0] + interval) * fps + 1)) / fps
    moments = moments[moments < stretch[-1] + interval - slack]
    return Timeline(first + np.searchsorted(stretch, moments + slack, side="right") - 1, fps)


def cut(line: Timeline, frames: int, stride: int) -> tuple[list[np.ndarray], int]:
    """Windows of `frames` that begin every `stride` frames of a timeline, and how many frames are left at its end."""
    starts = range(0, len(line.index) - frames + 1, stride)
    windows = [line.index[s : s + frames] for s in starts]
    used = starts[-1] + frames if windows else 0
    return windows, len(line.index) - used


def read_windows(
    path: Path, times: np.ndarray, windows: Sequence[np.ndarray], reading: Reading
) -> Iterator[np.ndarray]:
    """Decode windows of one file, in order of their beginnings: each (T, H, W, 3) uint8.

    One pass over neighbouring windows, a seek over long gaps; never more frames in memory than the overlapping
    windows need.

    Raises:
        InputError: naming the file, where it can't be decoded or no longer holds the frames it was scanned with.
    """
    position = 0
    while position < len(windows):
        end = position + 1
        while end < len(windows) and windows[end][0] - windows[end - 1][-1] <= SEEK_GAP:
            end += 1
        yield from _read_run(path, times, windows[position:end], reading)
        position = end


def _read_run(path: Path, times: np.ndarray, windows: Sequence[np.ndarray], reading: Reading) -> Iterator[np.ndarray]:
    """Neighbouring windows of one file in one pass."""
    wanted = np.unique(np.concatenate(windows))
    start = float(times[wanted[0]])
    number = int(np.searchsorted(times, start - TIME_TOLERANCE))  # several frames may bear one time stamp
    steps = np.unique(np.diff(wanted))
    every = int(steps[0]) if len(steps) == 1 and number == wanted[0] else 1  # frames left out are not converted
    needed = set(wanted.tolist())
    kept: dict[int, np.ndarray] = {}
    pending = deque(windows)
    stream = video.iter_frames(path, start=start, every=every, threads=1, **dataclasses.asdict(reading))
    for frame in stream:
        if number >= len(times) or abs(float(times[number]) - frame.time) > TIME_TOLERANCE:
            break
        if number in needed:
            kept[number] = frame.image
        while pending and number >= pending[0][-1]:
            yield np.stack([kept[int(i)] for i in pending.popleft()])
            oldest = pending[0][0] if pending else 0
            kept = {i: image for i, image in kept.items() if i >= oldest}
        if not pending:
            return
        number += every
    raise InputError(
        f"{path}: frame {number} of {len(times)} is not where it was; the file changed since it was scanned"
    )


def scene_stretches(cuts: Sequence[int], count: int) -> list[tuple[int, int]]:
    """The stretches [first, last) between cuts, given the first frame number of every new scene."""
    edges = [0, *sorted({c for c in cuts if 0 < c < count}), count]
    return list(itertools.pairwise(edges))
