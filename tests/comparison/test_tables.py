"""Which differences count as larger than the noise."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from kinolab.comparison.matrix import Cell
from kinolab.comparison.plan import ComparePlan
from kinolab.comparison.tables import Group, Row, beyond, groups_of, marks, pair_mark, pairs_lines
from kinolab.config import load_config
from tests.comparison.tiny_plan import tiny_plan


def record(value: float, half: float | None, clips: Any = None, kind: str = "generation", metric: str = "fvd") -> Any:
    interval = None if half is None else {"low": value - half, "high": value + half}
    scored = [] if clips is None else [{"name": f"clip {k}", "scores": {metric: float(v)}} for k, v in enumerate(clips)]
    return {
        "metrics": {metric: {"value": value, "interval": interval, "count": 32}},
        "clips": scored, "protocol": {"kind": kind, "name": "p"}, "protocol_hash": "h",
    }  # fmt: skip


def row(name: str, *records: Any) -> Row:
    return Row(name, tuple(Cell("world", "small", k, name) for k in range(len(records))), records)


def test_intervals_decide_where_the_clips_differ() -> None:
    best = row("a", record(10.0, 3.0))
    assert beyond(best, row("b", record(15.0, 3.0)), "fvd"), "5 apart, noise sqrt(18) = 4.2"
    assert not beyond(best, row("b", record(14.0, 3.0)), "fvd")
    assert not beyond(best, row("b", record(99.0, None)), "fvd"), "without an interval nothing is claimed"


def test_the_same_clips_are_compared_one_by_one() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(25, 5, 64)
    better = hard + 0.2 + rng.normal(0, 0.1, 64)
    a, b = (record(float(v.mean()), 1.3, v, "reconstruction", "psnr") for v in (better, hard))
    assert abs(better.mean() - hard.mean()) < 1.3, "far within the intervals of the means"
    assert beyond(row("a", a), row("b", b), "psnr")
    noise = hard + rng.normal(0, 2, 64)
    c = record(float(noise.mean()), 1.3, noise, "reconstruction", "psnr")
    assert not beyond(row("a", c), row("b", b), "psnr")


def test_every_seed_has_to_agree() -> None:
    best = row("a", record(10.0, 1.0), record(10.0, 1.0))
    assert beyond(best, row("b", record(15.0, 1.0), record(14.0, 1.0)), "fvd")
    assert not beyond(best, row("b", record(25.0, 1.0), record(9.0, 1.0)), "fvd")


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("fvd", (9.0, 30.0, 9.5), ["best", "worse", "noise"]),
        ("psnr", (9.0, 30.0, 29.5), ["worse", "best", "noise"]),
        ("grid", (0.5, 1.4, 0.9), ["noise", "noise", "best"]),
        ("dynamic_degree", (0.5, 0.4, 0.9), ["alone"] * 3),
    ],
)
def test_what_is_good_depends_on_the_metric(metric: str, values: tuple[float, ...], expected: list[str]) -> None:
    half = 0.5
    rows = tuple(row(str(k), record(v, half, metric=metric)) for k, v in enumerate(values))
    assert marks(Group("t", "denoiser", rows), metric) == expected


def test_a_missing_score_is_not_marked_and_seeds_are_averaged() -> None:
    a, b = row("a", record(10.0, 1.0), record(20.0, 1.0)), row("b", record(1.0, 1.0, metric="kvd"))
    group = Group("t", "denoiser", (a, b))
    assert a.mean("fvd") == 15.0 and a.interval("fvd") == (9.0, 21.0) and b.mean("fvd") is None
    assert group.metrics == ["fvd", "kvd"] and marks(group, "fvd") == ["alone", "alone"]


def test_without_intervals_nothing_is_said() -> None:
    rows = (row("a", record(9.0, None)), row("b", record(30.0, None)), row("c", record(10.0, 1.0)))
    assert marks(Group("t", "denoiser", rows), "fvd") == ["alone"] * 3


def test_every_pair_is_told_apart_or_not() -> None:
    rows = (
        row("a", record(9.0, 0.5)),
        row("b", record(30.0, 0.5)),
        row("c", record(9.5, 0.5)),
        row("d", record(1, None)),
    )
    assert [[pair_mark(x, y, "fvd") for y in rows] for x in rows] == [
        ["=", "+", "=", "?"], ["-", "=", "-", "?"], ["=", "+", "=", "?"], ["?", "?", "?", "?"],
    ]  # fmt: skip
    lines = pairs_lines(Group("t", "denoiser", rows))
    assert lines[2] == "|  | 1 | 2 | 3 | 4 |" and lines[4] == "| 1. a |  | + | = | ? |"
    assert pairs_lines(Group("t", "denoiser", rows[:2])) == [], "two rows have their marks"


def test_protocols_never_meet_in_one_table() -> None:
    plan = load_config(ComparePlan, tiny_plan())
    cells = [Cell("world", "small", 0, name) for name in ("image", "odvae")]
    scores = {cells[0]: record(1.0, 1.0), cells[1]: {**record(1.0, 1.0), "protocol_hash": "another"}}
    groups = groups_of(plan, scores)
    assert [[r.name for r in g.rows] for g in groups] == [["odvae"], ["image"]]
    assert groups[0].title == "Autoencoders: world, protocol another"
    alone = groups_of(plan, {c: record(1.0, 1.0) for c in cells})
    assert [g.title for g in alone] == ["Autoencoders: world"] and len(alone[0].rows) == 2


def test_rows_of_one_start_stand_in_a_table_of_their_own() -> None:
    latte = tiny_plan()["denoisers"]["latte"]
    entries = {"a": latte | {"start": "unet"}, "b": latte | {"start": "mmdit"}, "c": latte | {"start": "unet"}}
    plan = load_config(ComparePlan, tiny_plan(denoisers=entries))
    cells = [Cell("world", "small", 0, "image", name, "generate") for name in entries]
    groups = groups_of(plan, {c: record(1.0, 1.0) for c in cells})
    assert [g.title for g in groups] == ["Denoisers: world, from mmdit", "Denoisers: world, from unet"]
    assert [[r.cells[0].denoiser for r in g.rows] for g in groups] == [["b"], ["a", "c"]]


def test_what_reads_the_same_is_no_difference() -> None:
    """Rounding brings an exact stream's seam to 0.99997: less than what is shown, however small the noise."""
    rows = tuple(row(str(k), record(v, 1e-6, metric="seam")) for k, v in enumerate((1.0, 0.99997, 1.2)))
    assert marks(Group("t", "autoencoder", rows), "seam") == ["best", "best", "worse"]
    assert marks(Group("t", "autoencoder", rows[:2]), "seam") == ["noise", "noise"]


def test_a_row_that_is_shown_clips_is_not_held_against_prompts() -> None:
    shown, other = (row(name, record(value, 1.0)) for name, value in (("shown", 5.0), ("other", 9.0)))
    for each in (shown, other):
        cast(dict[str, Any], each.records[0])["facts"] = {"shown": {"map": "depth"}}
    told, worse = row("told", record(50.0, 1.0)), row("worse", record(90.0, 1.0))
    group = Group("x", "denoiser", (shown, told, worse))
    assert marks(group, "fvd") == ["alone", "best", "worse"]
    assert (pair_mark(shown, told, "fvd"), pair_mark(shown, other, "fvd")) == ("?", "+")
    assert marks(Group("x", "denoiser", (shown, other)), "fvd") == ["best", "worse"]
