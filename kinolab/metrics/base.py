"""What every metric gives: a value with the number of samples behind it and the protocol that made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class MetricValue:
    """A score.

    value: the score itself, in the unit its metric states.
    count: how many samples it was computed from; the protocol says what a sample is.
    protocol: all that must be equal for two values to be comparable, as plain numbers and strings.
    """

    value: float
    count: int
    protocol: Mapping[str, str | int | float | bool] = field(default_factory=dict)
