"""Scores summed up clip by clip: their values by hand, and intervals of clips, not of their frames."""

from __future__ import annotations

import math

import pytest

from kinolab.errors import InputError
from kinolab.metrics import METRICS, better_of
from kinolab.metrics.statistics import mean_interval, wilson
from kinolab.metrics.summaries import LessIsBetter, Median, Passed, scores_of


def test_a_share_is_of_those_who_were_asked() -> None:
    metric = Passed()
    metric.update([True, None, False, True])
    value = metric.compute()
    assert (value.value, value.count, value.interval) == (2 / 3, 3, wilson(2, 3))
    with pytest.raises(InputError, match="no clip was asked for it"):
        Passed().compute()


def test_all_numbers_count_alike_and_those_of_a_clip_stay_together() -> None:
    metric = LessIsBetter()
    metric.update([[1.0, 2.0, 3.0], 10.0, [math.nan], math.inf])
    assert metric.compute().value == 4.0 and metric.compute().count == 2
    whole, split = LessIsBetter(), LessIsBetter()
    values = [float(k % 7) for k in range(30)]
    whole.update(values)
    split.update([[v, v] for v in values])
    assert whole.compute().interval == mean_interval(values)
    a, b = whole.compute().interval, split.compute().interval
    assert a is not None and b is not None and b.high - b.low == pytest.approx(a.high - a.low, rel=1e-6), (
        "a second frame that says the same makes nothing surer"
    )


def test_a_median_has_an_interval_that_holds_it() -> None:
    metric = Median()
    metric.update([*range(20), 1000.0])
    value = metric.compute()
    assert value.value == 10.0 and value.interval is not None
    assert 0 < value.interval.low < 10 < value.interval.high < 1000


def test_scores_come_by_name_and_those_that_nothing_is_known_of_are_left_out() -> None:
    found = scores_of({"asked_count": [True, False], "roughness": [math.nan], "given_psnr": [30.0, 32.0]})
    assert {name: value.value for name, value in found.items()} == {"asked_count": 0.5, "given_psnr": 31.0}
    assert better_of("position_error") == "lower" and better_of("given_psnr") == "higher"
    assert all(METRICS.names(kind) for kind in ("world", "physics", "tasks", "tune", "plan", "zero"))
