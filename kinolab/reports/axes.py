"""Axes and bins: the arithmetic of plots, apart from how they are drawn."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LARGEST = 1e200
"""What is drawn is at most so large, on a logarithmic scale also at least 1 / LARGEST; beyond, spans overflow."""


def drawable(value: float) -> bool:
    """Whether a value has a place in a plot."""
    return abs(value) <= LARGEST  # not true of NaN


def one_value(low: float, high: float) -> bool:
    """Whether a span is too small for steps within it: of one value, or of what rounding leaves."""
    return high - low <= max(1e-13 * max(abs(low), abs(high)), 1 / LARGEST)


def nice_step(span: float, count: int) -> float:
    """The smallest of 1, 2, 5 times a power of ten that divides `span` into at most about `count` parts."""
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    factor = next((f for f in (1, 2, 5) if f * power >= rough * (1 - 1e-9)), 10)
    return factor * power


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Multiples of a nice step within [low, high]."""
    step = nice_step(high - low, count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12 - math.floor(math.log10(step))) for k in range(first, last + 1)]


def log_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Powers of ten within [low, high]; with 2 and 5 times them where these are few; a nice step's where none fits."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 2, 5)):
        ticks = [f * 10.0**d for d in decades for f in factors if low * (1 - 1e-9) <= f * 10.0**d <= high * (1 + 1e-9)]
        if len(ticks) >= 3:
            every = math.ceil(len(ticks) / (count + 1))
            return ticks[::every]
    return [tick for tick in nice_ticks(low, high) if tick > 0]


def _nearest_nice(width: float) -> float:
    """Of 1, 2, 5 times a power of ten the nearest by ratio."""
    power = math.floor(math.log10(width))
    return min((f * 10.0**p for p in (power, power + 1) for f in (1, 2, 5)), key=lambda s: abs(math.log(s / width)))


def tick_label(value: float) -> str:
    """0.001, 25, 1500, 20k, 3M, 1e-5."""
    if 1e4 <= abs(value) < 1e12:
        size, unit = next(pair for pair in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if abs(value) >= pair[0])
        return f"{value / size:g}{unit}"
    return f"{value:g}".replace("e-0", "e-")


@dataclass(frozen=True)
class Axis:
    """Maps values in [low, high] to pixels from `start` to `end`, linearly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def around(
        cls, values: Sequence[float], start: float, end: float, *, log: bool = False, whole_steps: bool = False
    ) -> Axis:
        """An axis that holds all values; with `whole_steps` it begins and ends on a tick."""
        low, high = (min(values), max(values)) if values else (1.0, 10.0) if log else (0.0, 1.0)
        if one_value(low, high):
            pad = max(abs(low), abs(high)) / 2
            pad = pad if pad > 1 / LARGEST else 1.0
            low, high = (low / 2, high * 2) if log else (low - pad, high + pad)
        for _ in range(2 if whole_steps and not log else 0):  # twice: the wider span may have a wider step
            step = nice_step(high - low, 5)
            low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        if log:
            room = (high / low) ** 0.04
            low, high = low / room, high * room
        return cls(low, high, start, end, log)

    def place(self, value: float) -> float:
        """Where a value stands, in pixels."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        share = ((math.log(value) if self.log else value) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """The values that are written beside the axis."""
        return log_ticks(self.low, self.high) if self.log else nice_ticks(self.low, self.high)


@dataclass(frozen=True)
class Bins:
    """Counts of values between edges; the last bin holds its upper edge too."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


def bins_of(values: Sequence[float]) -> Bins:
    """Bins of equal, nice width, 40 at most; all values that are drawable are counted.

    The width is near the smaller of Rice's, span / (2 n^(1/3)), and that of Freedman and Diaconis (1981), 2 IQR /
    n^(1/3), which looks into the bulk of values with a long tail.
    """
    known = [v for v in values if drawable(v)]
    if not known:
        return Bins((0.0, 1.0), (0,))
    low, high = min(known), max(known)
    if one_value(low, high):
        half = abs(low) / 20
        half = half if half > 1 / LARGEST else 0.5
        return Bins((low - half, low + half), (len(known),))
    quarter, _, three_quarters = statistics.quantiles(known, n=4)
    root = len(known) ** (1 / 3)
    width = min((high - low) / (2 * root), 2 * (three_quarters - quarter) / root or math.inf, (high - low) / 5)
    step = _nearest_nice(max(width, (high - low) / 28))
    if all(v == int(v) for v in known) and high - low <= 20:
        low, step = low - 0.5, 1.0  # whole numbers, as counts of checks: a bin around each
        count = round(high - low + 0.5)
        first = low
    else:
        first = math.floor(low / step + 1e-9) * step
        count = max(1, math.ceil((high - first) / step - 1e-9))
    counts = [0] * count
    for value in known:
        counts[min(count - 1, max(0, int((value - first) / step)))] += 1
    digits = 12 - math.floor(math.log10(step))
    return Bins(tuple(round(first + k * step, digits) for k in range(count + 1)), tuple(counts))
