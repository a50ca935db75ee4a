"""Scores that are summed up from what is known of each clip: the share that passes, a mean, a median.

The evaluations on the toy world, `tune` and `plan` read their numbers clip by clip (or step by step) themselves; these
metrics say what a good value is and how sure the sum is.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np

from kinolab.errors import InputError
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
    """The mean over clips of a number of each, with a bootstrap interval; what is not finite is left out."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def update(self, values: Sequence[float]) -> None:
        """Add a number per clip."""
        self.values += [float(v) for v in values if math.isfinite(v)]

    def compute(self) -> MetricValue:
        """The mean. Raises InputError where no clip has the number."""
        if not self.values:
            raise InputError("no clip has a number that is finite")
        return MetricValue(self._middle(self.values), len(self.values), {}, self._interval())

    def _middle(self, values: Sequence[float]) -> float:
        return statistics.fmean(values)

    def _interval(self) -> Interval | None:
        return mean_interval(self.values)


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

    def _interval(self) -> Interval | None:
        values = np.asarray(self.values)
        return bootstrap(lambda chosen: float(np.median(values[chosen])), len(values))


class Decibels(MoreIsBetter):
    """A mean in decibels."""

    digits = 2


class Amount(LessIsBetter):
    """Seconds, bytes or money: what a run takes; its interval is from the fastest step to the slowest."""

    digits = 3
