"""Scores of several systems in one table, where they may stand in one, and which differences are beyond the noise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kinolab.metrics import METRICS, better_of
from kinolab.reports.blocks import Cell, Mark, Section, Table, Value

NOISE = (
    "Better beyond noise: the interval of the best score lies apart from that of every other one, which is a careful "
    "rule (intervals that overlap a little may still differ). Where intervals overlap, nothing is decided."
)


@dataclass(frozen=True)
class Score:
    """A value, its interval if it has one, and all that must be equal for two of them to stand in one column."""

    value: float
    interval: tuple[float, float] | None
    protocol: Mapping[str, Any]
    count: int = 0


@dataclass(frozen=True)
class System:
    """What was measured: its name in the report, the kind of evaluation, its protocol's key, and metric -> score."""

    name: str
    kind: str
    protocol: str
    scores: Mapping[str, Score]


def good_is(metric: str) -> str | None:
    """What a good value of a metric is: "higher", "lower" or near "one"; None where neither is, or it is not known.

    A longer name is that of its first words: "lpips_alex" is an LPIPS.
    """
    known = [name for name in METRICS if metric == name or metric.startswith(f"{name}_")]
    return better_of(max(known, key=len)) if known else None


def goodness(metric: str, value: float) -> float:
    """A number that is larger for a better value of a metric; 0 for all where it is not known what is better."""
    match good_is(metric):
        case "higher":
            return value
        case "lower":
            return -value
        case "one":
            return -abs(value - 1)
        case _:
            return 0.0


def marks(metric: str, scores: Sequence[Score | None]) -> list[Mark]:
    """For every score of a column, whether it is the best beyond noise, or within the noise of the best.

    Nothing is said of scores without an interval, nor of a metric of which it is not known what is better.
    """
    nothing: list[Mark] = [""] * len(scores)
    known = [(k, s) for k, s in enumerate(scores) if s is not None and s.interval is not None]
    if good_is(metric) is None or len(known) < 2 or len(known) < sum(s is not None for s in scores):
        return nothing
    best, top = max(known, key=lambda item: goodness(metric, item[1].value))
    near = [k for k, s in known if k != best and _overlap(s.interval, top.interval)]
    if not near:
        nothing[best] = "better"
    for k in (*near, best) if near else ():
        nothing[k] = "noise"
    return nothing


def _overlap(a: tuple[float, float] | None, b: tuple[float, float] | None) -> bool:
    assert a is not None and b is not None
    return a[0] <= b[1] and b[0] <= a[1]


def comparison(systems: Sequence[System]) -> Section | None:
    """Tables of the systems that can be compared: one per kind and protocol; None where no two can."""
    groups: dict[tuple[str, str], list[System]] = {}
    for system in systems:
        groups.setdefault((system.kind, system.protocol), []).append(system)
    tables = tuple(_table(kind, group) for (kind, _), group in groups.items() if len(group) > 1)
    if not tables:
        return None
    alone = [group[0].name for group in groups.values() if len(group) == 1]
    text = NOISE
    if alone:
        text += f" Measured by another protocol, so in no table here: {', '.join(alone)}."
    return Section("Systems side by side", text, tables)


def _table(kind: str, systems: Sequence[System]) -> Table:
    """One row per system; a metric whose own protocol differs between them has a column for each."""
    columns: dict[tuple[str, str], list[Score | None]] = {}
    for k, system in enumerate(systems):
        for metric, score in system.scores.items():
            column = columns.setdefault((metric, canonical(score.protocol)), [None] * len(systems))
            column[k] = score
    heads, cells = [], []
    for metric, protocol in columns:
        same = [key for key in columns if key[0] == metric]
        number = same.index((metric, protocol)) + 1
        heads.append(metric if len(same) == 1 else f"{metric} (protocol {number})")
        column = columns[metric, protocol]
        cells.append([_cell(s, mark) for s, mark in zip(column, marks(metric, column), strict=True)])
    rows: list[tuple[Value, ...]] = [(s.name, *(column[k] for column in cells)) for k, s in enumerate(systems)]
    return Table(("system", *heads), tuple(rows), f"{kind}: one protocol, 95% intervals in brackets")


def _cell(score: Score | None, mark: Mark) -> Cell:
    return Cell.of(None) if score is None else Cell.of(score.value, score.interval, mark)


def canonical(value: Any) -> str:
    """A record as text that is equal for equal records."""
    return json.dumps(value, sort_keys=True, default=str)
