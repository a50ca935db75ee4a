"""Points, ticks and bars stand at the pixels that their values say, and what can't be drawn is said."""

from __future__ import annotations

import math

import pytest

from kinolab.reports import Curves, Histogram
from kinolab.reports.charts import BOTTOM, LEFT, RIGHT, TOP, curves_figure, histogram_figure, thinned
from tests.reports.reading import NASTY, Reader, elements, plots


def places(points: str) -> list[tuple[float, float]]:
    pairs = [pair.split(",") for pair in points.split()]
    return [(float(x), float(y)) for x, y in pairs]


def test_a_line_goes_through_its_points() -> None:
    page = curves_figure(Curves("loss", {"train": [(0, 0.0), (50, 5.0), (100, 10.0)]}, "step", "loss"))
    (plot,) = plots(page)
    (line,) = elements(plot, "polyline", "line")
    assert places(line.attrib["points"]) == [(LEFT, BOTTOM), ((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2), (RIGHT, TOP)]
    dots = elements(plot, "circle", "dot")
    assert [dot[0].text for dot in dots] == ["train: 0 at 0", "train: 5 at 50", "train: 10 at 100"]
    assert float(dots[1].attrib["cx"]) == (LEFT + RIGHT) / 2
    assert "last 10" in plot.attrib["aria-label"], "readers of the page that see no plot hear how it ends"


def test_ticks_stand_where_their_values_are() -> None:
    (plot,) = plots(curves_figure(Curves("t", {"a": [(0, 0.0), (100, 10.0)]}, "x", "y")))
    found = {t.text: float(t.attrib["y"]) - 4 for t in elements(plot, "text", "y") if t.text}
    assert found == {str(v): pytest.approx(BOTTOM + (TOP - BOTTOM) * v / 10) for v in (0, 2, 4, 6, 8, 10)}
    across = {t.text: float(t.attrib["x"]) for t in elements(plot, "text", "tick") if "x" in t.attrib["class"].split()}
    assert across == {str(v): pytest.approx(LEFT + (RIGHT - LEFT) * v / 100) for v in (0, 20, 40, 60, 80, 100)}


def test_a_logarithmic_axis_makes_equal_ratios_equal_distances() -> None:
    points = [(1, 1.0), (2, 0.1), (3, 0.01), (4, 0.0), (5, -1.0)]
    page = curves_figure(Curves("t", {"a": points}, "x", "y", log=True))
    (line,) = elements(plots(page)[0], "polyline", "line")
    heights = [y for _, y in places(line.attrib["points"])]
    assert len(heights) == 3 and heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.02)
    assert "values at or below zero, 2 of them" in Reader(page).text


def test_what_is_not_finite_makes_a_gap_and_is_said() -> None:
    page = curves_figure(Curves("t", {"a": [(0, 1.0), (1, 2.0), (2, math.nan), (3, 1.0), (4, 2.0)]}, "x", "y"))
    assert len(elements(plots(page)[0], "polyline", "line")) == 2
    assert "values that are not finite: 1" in Reader(page).text
    empty = curves_figure(Curves("t", {"a": [(0, math.nan)], "b": []}, "x", "y", log=True))
    assert not elements(plots(empty)[0], "polyline", "line")


def test_a_long_line_is_thinned_but_keeps_its_peaks() -> None:
    points = [(float(k), 0.0) for k in range(50_000)]
    points[12_345] = (12_345.0, 9.0)
    points[40_000] = (40_000.0, -3.0)
    kept = thinned(points, 1000)
    assert len(kept) <= 1000 and {points[0], points[-1], points[12_345], points[40_000]} <= set(kept)
    assert kept == sorted(kept)
    page = curves_figure(Curves("t", {"a": points}, "x", "y"))
    assert len(page) < 80_000


def test_lines_differ_without_colour() -> None:
    page = curves_figure(Curves("t", {str(k): [(0, 0.0), (1, float(k))] for k in range(3)}, "x", "y"))
    kinds = [line.attrib["class"] for line in elements(plots(page)[0], "polyline", "line")]
    assert kinds == ["line s0", "line s1", "line s2"], "the style sheet gives each its own dashes"


def test_the_bars_of_a_histogram_sum_to_the_count_and_have_its_heights() -> None:
    page = histogram_figure(Histogram("t", [1, 1, 2, 3, 3, 3, 4, math.nan], "score", {"mean": 2.5, "none": math.nan}))
    (plot,) = plots(page)
    bars = elements(plot, "rect", "bar")
    counts = [int(bar.attrib["data-count"]) for bar in bars]
    assert counts == [2, 1, 3, 1]
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert [h / heights[1] for h in heights] == pytest.approx(counts, abs=0.01)
    (mark,) = elements(plot, "line", "line")
    assert float(mark.attrib["x1"]) == pytest.approx((LEFT + RIGHT) / 2), "2.5 is the middle of 0.5 to 4.5"
    text = Reader(page).text
    assert "7 clips; 1 without a value" in text and "mean 2.5" in text


def test_a_histogram_of_nothing_is_drawn() -> None:
    page = histogram_figure(Histogram("t", [], "score"))
    assert "0 clips" in Reader(page).text and len(plots(page)) == 1


def test_names_are_escaped() -> None:
    page = curves_figure(Curves(NASTY, {NASTY: [(0, 1.0)]}, NASTY, NASTY))
    page += histogram_figure(Histogram(NASTY, [1.0, 2.0], NASTY, {NASTY: 1.0}))
    assert len(plots(page)) == 2, "the plots are XML still"
    assert not Reader(page).all("script") and Reader(page).text.count(NASTY) >= 9
