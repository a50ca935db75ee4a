"""Scores that are summed up from what is known of each clip: the share that passes, a mean, a median.

The evaluations on the toy world, `tune` and `plan` read their numbers clip by clip (or step by step) themselves; these
metrics say what a good value is and how sure the sum is.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from kinolab.errors import InputError
from kinolab.metrics import METRICS
from kinolab.metrics.base import Interval, Metric, MetricValue
from kinolab.metrics.statistics import bootstrap, mean_interval, wilson


class Passed(Metric):
    """The share of clips that show something, among those that were asked for it, with Wilson's interval."""

    better = "higher"

    def __init__(self) -> None:
        self.passed, self.count = 0, 0

    def update(self, results: Sequence[bool | None]) -> None:
        """Add a result per clip: None where it was not asked for."""
        known = [r for r in results if r is not None]
        self.passed += sum(map(bool, known))
        self.count += len(known)

    def compute(self) -> MetricValue:
        """The share. Raises InputError where nobody asked."""
        if not self.count:
            raise InputError("no clip was asked for it")
        return MetricValue(self.passed / self.count, self.count, {}, wilson(self.passed, self.count))


class Mean(Metric):
    """The mean of the numbers of all clips, with a bootstrap interval; what is not finite is left out.

    A clip has one number or several, as its frames: they count alike, and stay together when the interval is found
    (the mean is then a ratio of sums over clips, and the interval that of its linear form: Cochran 1977, section 6.3).
    """

    def __init__(self) -> None:
        self.clips: list[list[float]] = []

    def update(self, values: Sequence[float | Sequence[float]]) -> None:
        """Add the number, or the numbers, of each clip."""
        for value in values:
            known = [float(v) for v in (value if isinstance(value, Sequence) else (value,)) if math.isfinite(v)]
            if known:
                self.clips.append(known)

    def compute(self) -> MetricValue:
        """The mean; its count is that of the clips. Raises InputError where no clip has a number."""
        if not self.clips:
            raise InputError("no clip has a number that is finite")
        value = self._middle([v for clip in self.clips for v in clip])
        return MetricValue(value, len(self.clips), {}, self._interval(value))

    def _middle(self, values: Sequence[float]) -> float:
        return statistics.fmean(values)

    def _interval(self, value: float) -> Interval | None:
        weight = len(self.clips) / sum(map(len, self.clips))
        return mean_interval([value + weight * (math.fsum(c) - len(c) * value) for c in self.clips])


class MoreIsBetter(Mean):
    """A mean of which more is better."""

    better = "higher"


class LessIsBetter(Mean):
    """A mean of which less is better."""

    better = "lower"


class Median(LessIsBetter):
    """The median over clips, of what has a long tail; less is better."""

    def _middle(self, values: Sequence[float]) -> float:
        return statistics.median(values)

    def _interval(self, value: float) -> Interval | None:
        values = np.asarray([clip[0] for clip in self.clips])
        return bootstrap(lambda chosen: float(np.median(values[chosen])), len(values))


class Decibels(MoreIsBetter):
    """A mean in decibels."""

    digits = 2


class Amount(LessIsBetter):
    """Seconds, bytes or money: what a run takes; its interval is from the fastest step to the slowest."""

    digits = 3


def scores_of(values: Mapping[str, Any]) -> dict[str, MetricValue]:
    """Scores by name from what `update` of their metric takes; one that no clip has a number for is left out."""
    found = {}
    for name, clips in values.items():
        metric = METRICS.get(name)()
        metric.update(clips)
        with suppress(InputError):
            found[name] = metric.score(name)
    return found
