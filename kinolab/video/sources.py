"""Where frames come from: what a source is, and what is known of it (part of `kinolab.video`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from kinolab.errors import InputError
from kinolab.video.picture import Orientation

if TYPE_CHECKING:
    import av


@dataclass(frozen=True)
class VideoInfo:
    """What `probe` finds. Sizes in pixels, times in seconds."""

    path: Path
    width: int
    """As shown: upright and with square pixels."""
    height: int
    """As shown: upright and with square pixels."""
    frames: int | None
    """Those that are shown; None where only reading the whole of a large file would tell (`exact`)."""
    fps: float
    """Average number of frames per second: a copy of all frames at this rate lasts as long as the source."""
    duration: float | None
    """Of the video stream, from the first frame to the end of the last; None where not known (see `frames`)."""
    container: str
    codec: str
    pixel_format: str
    rotation: int
    """Degrees counter-clockwise (0, 90, 180, 270) that turn the stored frame upright."""
    pixel_aspect: float
    """Width of a stored pixel over its height."""
    stored_width: int
    stored_height: int
    has_audio: bool
    notes: tuple[str, ...] = ()
    """What there is to know about the frames: a variable rate, interlacing, HDR, frames that are lost or missing."""


@dataclass(frozen=True)
class Shown:
    """A frame on the time line: from `time` on, for `duration` seconds; `load` makes the picture if it is wanted."""

    time: float
    duration: float
    load: Callable[[], av.VideoFrame]


def ready(frame: av.VideoFrame) -> Callable[[], av.VideoFrame]:
    return lambda: frame


class Source:
    """A time line of frames. `slack` is the rounding of its time stamps, in seconds."""

    slack = 1e-6
    pixel_aspect = Fraction(1)
    orientation = Orientation()
    rate: Fraction

    def info(self, exact: bool) -> VideoInfo:
        raise NotImplementedError

    def frames(self, start: float) -> Iterator[Shown]:
        """Frames in order, at strictly rising times; the first one begins at or before `start` seconds."""
        raise NotImplementedError

    def end_of(self, last: Shown) -> float:
        """Until when the last frame is shown, in seconds."""
        return last.time + last.duration

    def notes(self) -> list[str]:
        """What there is to know about the frames that were given so far, a line each."""
        return []

    def close(self) -> None:
        """Let go of the file."""


def rational(fps: float, name: str) -> Fraction:
    """A frame rate as a fraction; 23.976, 29.97, 59.94 and the like are multiples of 1000/1001."""
    if not (math.isfinite(fps) and 0.001 <= fps <= 1000):
        raise InputError(f"{name}: expected frames per second between 0.001 and 1000, got {fps}")
    whole = round(fps * 1.001)
    if abs(fps - round(fps)) > 1e-6 and abs(fps * 1.001 - whole) < 2e-3:
        return Fraction(whole * 1000, 1001)
    return Fraction(fps).limit_denominator(10000)


def mean_rate(frames: int, seconds: float, stated: Fraction) -> float:
    """Frames per second, counted: the stated rate where that many frames at it last as long, else frames / seconds.

    A header's rate is exact where it is true (30000/1001), but of a variable rate it is the nominal one. Containers
    round times to milliseconds, and the length of the last frame.
    """
    if seconds <= 0 or abs(frames / stated - seconds) <= 0.003 + 0.05 / stated:
        return float(stated)
    return frames / seconds
