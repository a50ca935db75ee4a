"""Ticks are round numbers inside the axis, values stand where the scale says, and bins lose no value."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinolab.reports.axes import Axis, bins_of, log_ticks, nice_ticks, tick_label


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-3, 17, [0, 5, 10, 15]),
        (20.7, 20.86, [20.7, 20.75, 20.8, 20.85]),
        (0, 40_000, [0, 10_000, 20_000, 30_000, 40_000]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert nice_ticks(low, high) == expected


def test_logarithmic_ticks_are_decades_and_what_lies_between_where_these_are_few() -> None:
    assert log_ticks(0.8e-3, 1.2) == pytest.approx([1e-3, 1e-2, 1e-1, 1])
    assert log_ticks(0.9, 21) == pytest.approx([1, 2, 5, 10, 20])
    assert log_ticks(0.144, 0.147) == nice_ticks(0.144, 0.147)
    assert len(log_ticks(1e-9, 1e9)) <= 8


@pytest.mark.slow
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_lie_within_the_axis_and_are_few(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    assert 1 <= len(ticks) <= 8
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in ticks)


def test_labels_are_short() -> None:
    labels = [tick_label(v) for v in (0, 0.25, 1500, 20_000, 3_000_000, 1e-5, 2.5e9)]
    assert labels == ["0", "0.25", "1500", "20k", "3M", "1e-5", "2.5G"]


def test_an_axis_maps_linearly_or_by_the_logarithm() -> None:
    axis = Axis(10, 30, 100, 200)
    assert [axis.place(v) for v in (10, 15, 30)] == [100, 125, 200]
    down = Axis(0.01, 100, 250, 10, log=True)
    assert down.place(1) == pytest.approx(130) and down.place(10) == pytest.approx(70)


def test_an_axis_holds_all_values_and_begins_on_a_tick() -> None:
    axis = Axis.around([0.137, 0.1612], 0, 1, whole_steps=True)
    assert axis.low <= 0.137 and axis.high >= 0.1612
    assert axis.ticks[0] == pytest.approx(axis.low) and axis.ticks[-1] == pytest.approx(axis.high)
    for values in ([], [0.0], [-4.0]):
        axis = Axis.around(values, 0, 1, whole_steps=True)
        assert axis.low < axis.high


@given(st.lists(st.floats(-1e4, 1e4), max_size=80))
def test_bins_count_every_value_once_and_where_it_lies(values: list[float]) -> None:
    bins = bins_of([*values, math.nan, math.inf])
    assert sum(bins.counts) == len(values)
    assert len(bins.edges) == len(bins.counts) + 1 and len(bins.counts) <= 45
    if values:
        assert bins.edges[0] <= min(values) + 1e-6 and bins.edges[-1] >= max(values) - 1e-6


def test_bins_agree_with_numpy_on_their_own_edges() -> None:
    values = np.random.default_rng(0).gamma(2.0, 0.7, 400)
    bins = bins_of(values.tolist())
    np.testing.assert_array_equal(np.histogram(values, np.array(bins.edges))[0], bins.counts)
    widths = {round(b - a, 9) for a, b in pairwise(bins.edges)}
    assert len(widths) == 1 and 10 <= len(bins.counts) <= 40


def test_whole_numbers_have_a_bin_each() -> None:
    bins = bins_of([0, 6, 6, 3])
    assert bins.counts == (1, 0, 0, 1, 0, 0, 2)
    assert bins.edges[0] == -0.5 and bins.edges[-1] == 6.5
