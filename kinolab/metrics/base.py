"""What every metric gives: a value with its interval, the number of samples behind it and the protocol that made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LEVEL = 0.95
"""The share of intervals that are to hold the true value."""


@dataclass(frozen=True)
class Interval:
    """Where a score lies, seen from the samples it was computed from.

    method: how it was found (wilson, bootstrap, jackknife, normal); level: the share of such intervals that hold the
    true value.
    """

    low: float
    high: float
    method: str
    level: float = LEVEL


@dataclass(frozen=True)
class MetricValue:
    """A score.

    value: the score itself, in the unit its metric states.
    count: how many samples it was computed from; the protocol says what a sample is.
    protocol: all that must be equal for two values to be comparable, as plain numbers and strings.
    interval: none where the samples are too few or the metric has none.
    """

    value: float
    count: int
    protocol: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    interval: Interval | None = None
