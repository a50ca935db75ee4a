"""The decision: which clips are kept, and what each threshold costs, alone and after those before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kinolab.data.curation.settings import Bounds
from kinolab.data.curation.table import Row, rounded


@dataclass(frozen=True)
class Bound:
    """One threshold as it came out: what a score has to be at least, or at most, and the percentile that it is of."""

    score: str
    side: str
    limit: float
    percentile: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a score keeps a clip."""
        return value >= self.limit if self.side == "min" else value <= self.limit

    def __str__(self) -> str:
        sign = ">=" if self.side == "min" else "<="
        of = f" (percentile {self.percentile:g})" if self.percentile is not None else ""
        return f"{self.score} {sign} {self.limit:.4g}{of}"


@dataclass(frozen=True)
class Cost:
    """What a threshold drops: clips and hours of all of them, and of those that the thresholds before it leave."""

    bound: str
    clips: int
    hours: float
    more_clips: int
    more_hours: float


@dataclass(frozen=True)
class Decision:
    """The rows with the reasons why they are dropped, and what each threshold costs, in order."""

    rows: tuple[Row, ...]
    costs: tuple[Cost, ...]
    bounds: tuple[Bound, ...]

    @property
    def kept(self) -> list[Row]:
        """The clips that are kept."""
        return [row for row in self.rows if not row.reasons]


def bounds_of(score: str, given: Bounds, values: Sequence[float]) -> list[Bound]:
    """The thresholds on one score; percentiles are of all clips that have it (linear between two of them)."""
    found = []
    for side, limit, percentile in (
        ("min", given.min, given.min_percentile),
        ("max", given.max, given.max_percentile),
    ):
        if limit is not None:
            found.append(Bound(score, side, limit))
        if percentile is not None and len(values):
            found.append(Bound(score, side, float(np.percentile(np.array(values), percentile)), percentile))
    return found


def decide(rows: Sequence[Row], keep: Mapping[str, Bounds]) -> Decision:
    """Hold every clip against every threshold.

    The percentile of a score is that of the numbers as the table has them, so that a table can be decided by hand.
    """
    numbers = [{name: rounded(value) for name, value in row.scores.items()} for row in rows]
    seconds = np.array([row.part.end - row.part.start for row in rows])
    reasons: list[list[str]] = [[] for _ in rows]
    left = np.ones(len(rows), bool)
    costs: list[Cost] = []
    bounds: list[Bound] = []

    def cost(said: str, fails: np.ndarray) -> None:
        more = fails & left
        hours = [float(seconds[which].sum()) / 3600 for which in (fails, more)]
        costs.append(Cost(said, int(fails.sum()), hours[0], int(more.sum()), hours[1]))
        left[fails] = False

    for score, given in keep.items():
        values = [row.get(score) for row in numbers]
        for bound in bounds_of(score, given, [v for v in values if v is not None]):
            fails = np.array([v is not None and not bound.holds(v) for v in values], bool)
            for k in np.flatnonzero(fails):
                reasons[k].append(f"{score} {values[k]:.4g}, kept where {bound}")
            cost(str(bound), fails)
            bounds.append(bound)
        if given.missing == "drop":
            fails = np.array([v is None for v in values], bool)
            for k in np.flatnonzero(fails):
                reasons[k].append(f"no {score}")
            cost(f"{score} known", fails)
    decided = tuple(replace(row, reasons=tuple(why)) for row, why in zip(rows, reasons, strict=True))
    return Decision(decided, tuple(costs), tuple(bounds))
