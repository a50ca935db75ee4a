"""Points, ticks and bars stand at the pixels that their values say, and what can't be drawn is said."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest

from kinolab.reports import Curves
from kinolab.reports.charts import BOTTOM, LEFT, RIGHT, TOP, curves_plot, thinned
from tests.reports.reading import NASTY, elements


def drawn(curves: Curves) -> ElementTree.Element:
    """The plot, as XML."""
    return ElementTree.fromstring(f"<svg>{''.join(curves_plot(curves).parts)}</svg>")


def places(points: str) -> list[tuple[float, float]]:
    pairs = [pair.split(",") for pair in points.split()]
    return [(float(x), float(y)) for x, y in pairs]


def test_a_line_goes_through_its_points() -> None:
    curves = Curves("loss", {"train": [(0, 0.0), (50, 5.0), (100, 10.0)]}, "step", "loss")
    plot = drawn(curves)
    (line,) = elements(plot, "polyline", "line")
    assert places(line.attrib["points"]) == [(LEFT, BOTTOM), ((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2), (RIGHT, TOP)]
    dots = elements(plot, "circle", "dot")
    assert [dot[0].text for dot in dots] == ["train: 0 at 0", "train: 5 at 50", "train: 10 at 100"]
    assert float(dots[1].attrib["cx"]) == (LEFT + RIGHT) / 2
    assert curves_plot(curves).legend == ((0, "train", "10"),), "with its last value"


def test_ticks_stand_where_their_values_are() -> None:
    plot = drawn(Curves("t", {"a": [(0, 0.0), (100, 10.0)]}, "x", "y"))
    found = {t.text: float(t.attrib["y"]) - 4 for t in elements(plot, "text", "y") if t.text}
    assert found == {str(v): pytest.approx(BOTTOM + (TOP - BOTTOM) * v / 10) for v in (0, 2, 4, 6, 8, 10)}
    across = {t.text: float(t.attrib["x"]) for t in elements(plot, "text", "tick") if "x" in t.attrib["class"].split()}
    assert across == {str(v): pytest.approx(LEFT + (RIGHT - LEFT) * v / 100) for v in (0, 20, 40, 60, 80, 100)}


def test_a_logarithmic_axis_makes_equal_ratios_equal_distances() -> None:
    points = [(1, 1.0), (2, 0.1), (3, 0.01), (4, 0.0), (5, -1.0)]
    curves = Curves("t", {"a": points}, "x", "y", log=True)
    (line,) = elements(drawn(curves), "polyline", "line")
    heights = [y for _, y in places(line.attrib["points"])]
    assert len(heights) == 3 and heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.02)
    assert "values at or below zero, 2 of them" in curves_plot(curves).notes[0]


def test_what_is_not_finite_makes_a_gap_and_is_said() -> None:
    curves = Curves("t", {"a": [(0, 1.0), (1, 2.0), (2, math.nan), (3, 1.0), (4, 2.0)]}, "x", "y")
    assert len(elements(drawn(curves), "polyline", "line")) == 2
    assert curves_plot(curves).notes == ("values that are not finite: 1",)
    empty = Curves("t", {"a": [(0, math.nan)], "b": []}, "x", "y", log=True)
    assert not elements(drawn(empty), "polyline", "line")


def test_a_long_line_is_thinned_but_keeps_its_peaks() -> None:
    points = [(float(k), 0.0) for k in range(50_000)]
    points[12_345] = (12_345.0, 9.0)
    points[40_000] = (40_000.0, -3.0)
    kept = thinned(points, 1000)
    assert len(kept) <= 1000 and {points[0], points[-1], points[12_345], points[40_000]} <= set(kept)
    assert kept == sorted(kept)
    assert len("".join(curves_plot(Curves("t", {"a": points}, "x", "y")).parts)) < 80_000


def test_lines_differ_without_colour() -> None:
    plot = drawn(Curves("t", {str(k): [(0, 0.0), (1, float(k))] for k in range(3)}, "x", "y"))
    kinds = [line.attrib["class"] for line in elements(plot, "polyline", "line")]
    assert kinds == ["line s0", "line s1", "line s2"], "the style sheet gives each its own dashes"


def test_names_are_escaped() -> None:
    plot = drawn(Curves(NASTY, {NASTY: [(0, 1.0)]}, NASTY, NASTY))
    assert not list(plot.iter("script")) and "".join(plot.itertext()).count(NASTY) >= 3, "it is XML still"
