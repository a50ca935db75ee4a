"""Signals that are read out of a file's frames: a trace along the file first, numbers of any part of it after.

A trace is what a signal saw at each moment that it looked at. It is stored under the hash of the file's content; where
the file is cut and what is kept is decided from traces, so that cutting and deciding anew reads no frame again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from pydantic import Field

from kinolab.config import Config
from kinolab.runtime.hashes import json_sha256

Trace = dict[str, np.ndarray]
"""Columns of one length; `time` is the second of each moment, `since` (of pairs) that of the frame before."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""BT.601: what a grey value is of red, green and blue."""
MOMENT = 1e-6
"""Seconds below which two times are one."""


class View:
    """One frame, shrunk and greyed once for all signals that look at it.

    time: seconds since the first frame; image: (H, W, 3) uint8 RGB as stored.
    """

    def __init__(self, time: float, image: np.ndarray) -> None:
        self.time, self.image = time, image
        self._small: dict[int, np.ndarray] = {}
        self._grey: dict[int | None, np.ndarray] = {}

    def small(self, side: int) -> np.ndarray:
        """(h, w, 3) uint8 with a shorter side of `side` pixels, by the mean of areas; a smaller frame as it is."""
        if side not in self._small:
            height, width = self.image.shape[:2]
            short = min(height, width)
            found = self.image
            if short > side:
                size = (max(side, round(width * side / short)), max(side, round(height * side / short)))
                found = np.asarray(Image.fromarray(self.image).resize(size, Image.Resampling.BOX, reducing_gap=2.0))
            self._small[side] = found
        return self._small[side]

    def grey(self, side: int | None = None) -> np.ndarray:
        """(h, w) float32 in [0, 255], of the frame as it is or with a shorter side of `side`."""
        if side not in self._grey:
            self._grey[side] = (self.image if side is None else self.small(side)) @ LUMA
        return self._grey[side]


@dataclass(frozen=True)
class Part:
    """A part of a file: seconds from the first frame on, the end left out; and the caption of the file, if it has one.

    The caption decides numbers only, never a trace.
    """

    start: float
    end: float
    caption: str | None = None


@dataclass(frozen=True)
class Score:
    """What one number says: its unit, and in a line what it is."""

    unit: str
    says: str


class FrameConfig(Config):
    """What the signals that read frames have in common."""

    rate: float | None = Field(2.0, gt=0, le=1000)
    """Frames per second that are looked at; none = all."""


class Watcher(ABC):
    """Looks at the frames of one file, in order, and keeps what it saw."""

    @abstractmethod
    def see(self, view: View) -> None:
        """Look at the next frame that the signal asked for."""

    @abstractmethod
    def trace(self) -> Trace:
        """What was seen."""


class FrameSignal(ABC):
    """One file of `data/curate/`: what it traces, and which numbers it makes of a part of a trace."""

    Config: ClassVar[type[FrameConfig]] = FrameConfig
    scores: ClassVar[Mapping[str, Score]]
    version: ClassVar[int] = 1
    """Counts up when a trace or a number comes to mean something else, so that older ones are made anew."""
    decides: ClassVar[frozenset[str]] = frozenset()
    """Fields that change numbers and cuts but not the trace: changing them reads no frame again."""

    def __init__(self, config: Any = None) -> None:
        self.config: Any = self.Config() if config is None else config

    def check(self) -> None:  # noqa: B027 - most need nothing
        """Raise MissingExtraError or InputError where it can't be asked here: before anything is read."""

    @abstractmethod
    def watch(self) -> Watcher:
        """Begin a file."""

    @abstractmethod
    def score(self, trace: Trace, part: Part) -> dict[str, float | None]:
        """The numbers of a part, by the names in `scores`; None where the part is too short for one."""

    def protocol(self) -> dict[str, Any]:
        """All that decides the numbers, as plain values."""
        return {"version": self.version, **self.config.model_dump(mode="json"), **self.content()}

    def content(self) -> dict[str, str]:
        """Hashes of files that decide the numbers, such as a network's weights."""
        return {}

    def hash(self) -> str:
        """Of the protocol: scores compare only where it is the same."""
        return json_sha256(self.protocol())[:16]

    def trace_hash(self) -> str:
        """Of what decides the trace alone."""
        return json_sha256({k: v for k, v in self.protocol().items() if k not in self.decides})[:16]


class Columns:
    """A trace while it grows: named numbers of each moment."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.rows: list[Sequence[float]] = []

    def add(self, *values: float) -> None:
        """The numbers of the next moment, in the order of the names."""
        self.rows.append(values)

    def trace(self) -> Trace:
        """As columns of float64."""
        table = np.array(self.rows, np.float64).reshape(-1, len(self.names))
        return {name: np.ascontiguousarray(table[:, k]) for k, name in enumerate(self.names)}


def inside(trace: Trace, part: Part) -> Trace:
    """The moments of a trace that lie in a part; pairs with both their frames."""
    time = trace["time"]
    begin = trace.get("since", time)
    chosen = (begin >= part.start - MOMENT) & (time < part.end - MOMENT)
    return {name: column[chosen] for name, column in trace.items()}


class Sampled:
    """Which frames a rate asks for: the first one at or after each moment k / rate."""

    def __init__(self, rate: float | None) -> None:
        self.rate, self._next = rate, 0

    def wants(self, time: float) -> bool:
        """Whether the frame of this time is asked for; to be asked of every frame once, in order."""
        if self.rate is None:
            return True
        place = time * self.rate + 1e-3  # times in milliseconds may come a little early
        if place < self._next:
            return False
        self._next = int(place) + 1
        return True


class EachFrame(Watcher):
    """A watcher whose numbers each come from one frame alone."""

    def __init__(self, names: Iterable[str], numbers: Any) -> None:
        self._columns, self._numbers = Columns("time", *names), numbers

    def see(self, view: View) -> None:
        """Add the numbers of a frame."""
        self._columns.add(view.time, *self._numbers(view))

    def trace(self) -> Trace:
        """One row a frame."""
        return self._columns.trace()


def mean_of(trace: Trace, name: str) -> float | None:
    """The mean of a column; None where it is empty."""
    return float(trace[name].mean()) if len(trace[name]) else None
