"""Near duplicates: a perceptual hash over time, and which earlier clip of the table has nearly the same.

Of frames at eight even moments, the bits that say where a grey picture of 17 x 16 becomes clearly lighter to the right
or to the left. Likeness of two clips is the share of their bits that both have (Jaccard's), so a plain background,
which has no bits, makes nothing alike; candidates are found by MinHash (Broder 1997), so that not every pair is
compared. Mirrored and cropped copies are not found.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import ClassVar

import numpy as np
from PIL import Image

from kinolab.data.curate.frames import FrameConfig, FrameSignal, Part, Score, Trace, View, Watcher, inside

ACROSS, DOWN, MOMENTS = 17, 16, 8
BYTES = MOMENTS * 2 * DOWN * (ACROSS - 1) // 8
"""Of a print's bits."""
COUNTS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)
"""Bits that are set in each byte."""
CLEAR = 3.0
"""Grey values from place to place below which nothing gets lighter or darker."""
BANDS, ROWS = 32, 2
"""Of MinHash: two clips are compared where one of 32 bands of 2 values is equal."""
CROWD = 512
"""Earlier clips of one band that are compared at most: the latest ones."""


class DuplicatesConfig(FrameConfig):
    """How often a clip is looked at."""

    rate: float | None = 4.0
    """Frames per second that are kept as bits; none = all."""


def bits(image: np.ndarray) -> np.ndarray:
    """512 bits, packed as (64,) uint8: where it gets lighter to the right, and where darker."""
    small = np.asarray(Image.fromarray(image).convert("L").resize((ACROSS, DOWN), Image.Resampling.BOX), np.float32)
    steps = np.diff(small, axis=1)
    return np.packbits(np.concatenate([(steps > CLEAR).ravel(), (steps < -CLEAR).ravel()]))


class Watching(Watcher):
    """The bits of each frame."""

    def __init__(self) -> None:
        self._times, self._bits = list[float](), list[np.ndarray]()

    def see(self, view: View) -> None:
        """Keep the bits of a frame."""
        self._times.append(view.time)
        self._bits.append(bits(view.small(64)))

    def trace(self) -> Trace:
        """Bits (N, 64) uint8 and their times."""
        found = np.stack(self._bits) if self._bits else np.zeros((0, 64), np.uint8)
        return {"time": np.array(self._times, np.float64), "bits": found}


class Duplicates(FrameSignal):
    """Likeness to an earlier clip of the table."""

    Config = DuplicatesConfig
    scores: ClassVar[dict[str, Score]] = {
        "duplicate": Score("share", "likeness to the most alike earlier clip; 1 for the same")
    }

    def watch(self) -> Watcher:
        """Begin a file."""
        return Watching()

    def score(self, trace: Trace, part: Part) -> dict[str, float | None]:
        """None: it takes the table to tell (`likeness`)."""
        return {"duplicate": None}

    def print_of(self, trace: Trace, part: Part) -> np.ndarray:
        """The numbers of those bits of eight even moments of a part that are set; empty where nothing was seen."""
        found = inside(trace, part)
        if not len(found["time"]):
            return np.zeros(0, np.uint16)
        wanted = part.start + (np.arange(MOMENTS) + 0.5) / MOMENTS * (part.end - part.start)
        rows = np.abs(found["time"][None] - wanted[:, None]).argmin(1)
        return np.flatnonzero(np.unpackbits(found["bits"][rows].ravel())).astype(np.uint16)


def _packed(own: np.ndarray) -> np.ndarray:
    """The bits (BYTES,) uint8 of a print."""
    found = np.zeros(8 * BYTES, np.uint8)
    found[own] = 1
    return np.packbits(found)


@cache
def _orders() -> np.ndarray:
    """Random numbers (BANDS * ROWS, bits) whose order each value of a signature goes by; the same everywhere."""
    return np.random.default_rng(20231125).integers(0, 2**62, (BANDS * ROWS, MOMENTS * 2 * DOWN * (ACROSS - 1)))


def likeness(prints: Sequence[np.ndarray]) -> list[tuple[float, int | None]]:
    """For each clip's print, in order: the largest likeness to an earlier one, in [0, 1], and which."""
    places: dict[tuple[int, ...], list[int]] = {}
    found: list[tuple[float, int | None]] = []
    sizes = np.array([len(each) for each in prints], np.int64)
    packed = np.stack([_packed(each) for each in prints]) if len(prints) else np.zeros((0, BYTES), np.uint8)
    for k, own in enumerate(prints):
        best: tuple[float, int | None] = (0.0, None)
        if len(own):
            signature = _orders()[:, own].min(1).reshape(BANDS, ROWS)
            candidates: set[int] = set()
            for band, values in enumerate(signature.tolist()):
                place = places.setdefault((band, *values), [])
                candidates.update(place[-CROWD:])
                place.append(k)
            if candidates:
                others = np.array(sorted(candidates))
                shared = COUNTS[packed[others] & packed[k]].sum(1, dtype=np.int64)
                alike = shared / (len(own) + sizes[others] - shared)
                first = int(alike.argmax())  # of several, the earliest clip
                best = (float(alike[first]), int(others[first])) if alike[first] > 0 else best
        found.append(best)
    return found
