"""Which frames of a source are asked for: of a stretch of time, every n-th, or those shown at a rate's moments."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from kinolab.errors import InputError
from kinolab.video.sources import Shown, Source, rational


@dataclass(frozen=True)
class Wanted:
    """Which frames are asked for (see `kinolab.video.iter_frames`).

    Raises:
        InputError: for a range, a step or a rate that can't be.
    """

    start: float
    end: float | None
    every: int
    fps: float | None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and self.start >= 0):
            raise InputError(f"start: expected seconds from 0 on, got {self.start}")
        if self.end is not None and not self.end > self.start:
            raise InputError(f"end: expected more than start ({self.start:g} s), got {self.end}")
        if self.every < 1:
            raise InputError(f"every: expected a whole number from 1 on, got {self.every}")
        if self.fps is not None:
            rational(self.fps, "fps")

    def of(self, source: Source) -> Iterator[Shown]:
        """The frames of a source from `start` on, at their own times or those of the rate; `end` and `every` aside."""
        if self.fps is not None:
            return self._sampled(source, self.fps)
        return (item for item in source.frames(self.start) if item.time >= self.start - source.slack)

    def _sampled(self, source: Source, fps: float) -> Iterator[Shown]:
        """For each time `start + k / fps` until the last frame ends, the last frame that began by then."""
        index, current = 0, None
        for item in source.frames(self.start):
            while current is not None and self.start + index / fps < item.time - source.slack:
                yield Shown(self.start + index / fps, 1 / fps, current.load)
                index += 1
            current = item
        while current is not None and self.start + index / fps < source.end_of(current) - source.slack:
            yield Shown(self.start + index / fps, 1 / fps, current.load)
            index += 1
