"""Scores of different protocols never stand in one column, and marks say what the intervals say."""

from __future__ import annotations

import math
from typing import Any

import pytest

from kinolab.reports import Table
from kinolab.reports.blocks import Mark
from kinolab.reports.systems import Score, System, comparison, good_is, marks


def score(value: float, half: float | None = 0.5, **protocol: Any) -> Score:
    return Score(value, None if half is None else (value - half, value + half), protocol)


@pytest.mark.parametrize(
    ("metric", "good"),
    [
        ("psnr", "higher"), ("lpips_alex", "lower"), ("fvd", "lower"), ("seam", "one"), ("asked_all", "higher"),
        ("temporal_flickering", "higher"), ("flicker", "lower"), ("dynamic_degree", None), ("something", None),
    ],
)  # fmt: skip
def test_what_a_good_value_is(metric: str, good: str | None) -> None:
    assert good_is(metric) == good


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("psnr", (20.0, 22.0, 18.0), ["", "better", ""]),
        ("psnr", (20.0, 20.6, 18.0), ["noise", "noise", ""]),
        ("fvd", (20.0, 22.0, 18.0), ["", "", "better"]),
        ("fvd", (18.9, 22.0, 18.0), ["noise", "", "noise"]),
        ("seam", (0.2, 1.1, 3.0), ["noise", "noise", ""]),
        ("seam", (-2.0, 1.1, 3.0), ["", "better", ""]),
        ("dynamic_degree", (1.0, 20.0, 40.0), ["", "", ""]),
    ],
)
def test_marks_follow_the_intervals(metric: str, values: tuple[float, ...], expected: list[Mark]) -> None:
    assert marks(metric, [score(v) for v in values]) == expected


def test_nothing_is_claimed_without_intervals() -> None:
    assert marks("psnr", [score(20.0, None), score(30.0)]) == ["", ""]
    assert marks("psnr", [score(20.0), None]) == ["", ""]
    assert marks("psnr", [score(20.0), None, score(30.0)]) == ["", "", "better"]


def test_different_protocols_never_share_a_table_nor_a_column() -> None:
    a = System("a", "reconstruction", "p1", {"psnr": score(20.0, size=64), "lpips": score(0.1, 0.01)})
    b = System("b", "reconstruction", "p1", {"psnr": score(25.0, size=128), "lpips": score(0.2, 0.01)})
    c = System("c", "reconstruction", "p2", {"psnr": score(30.0, size=64)})
    section = comparison([a, b, c])
    assert section is not None and "in no table here: c" in section.text
    (table,) = section.blocks
    assert isinstance(table, Table)
    assert table.columns == ("system", "psnr (protocol 1)", "lpips", "psnr (protocol 2)")
    first, second = table.cells
    assert [cell.text for cell in first] == ["a", "20", "0.1000", "-"]
    assert math.isnan(second[1].number or 0) and second[3].text == "25"
    assert [row[2].mark for row in (first, second)] == ["better", ""]


def test_one_system_is_no_comparison() -> None:
    assert comparison([System("a", "x", "p", {"psnr": score(1.0)})]) is None
    two = [System("a", kind, "p", {"psnr": score(1.0)}) for kind in ("reconstruction", "generation")]
    assert comparison(two) is None
