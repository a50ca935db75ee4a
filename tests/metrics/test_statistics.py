"""Intervals: closed forms, agreement with SciPy, and how often they hold the true value."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kinolab.errors import InputError
from kinolab.metrics.base import Interval
from kinolab.metrics.statistics import (
    bootstrap,
    jackknife,
    jackknife_variance,
    mean_interval,
    paired_difference,
    spread_interval,
    student_t,
    wilson,
)


def holds(interval: Interval | None, value: float) -> bool:
    assert interval is not None
    return interval.low <= value <= interval.high


@pytest.mark.slow
@pytest.mark.parametrize(("passed", "count"), [(0, 5), (5, 5), (3, 10), (99, 100), (1, 1)])
def test_wilson_agrees_with_scipy(passed: int, count: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(passed, count).proportion_ci(0.95, "wilson")
    found = wilson(passed, count)
    assert found.method == "wilson"
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_nothing_and_of_nonsense() -> None:
    assert wilson(0, 0) == Interval(0.0, 1.0, "wilson")
    for passed, count in ((3, 2), (-1, 2), (1, math.inf)):
        with pytest.raises(InputError, match=f"got {passed} of {count}"):
            wilson(passed, count)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 10, 18, 501])
def test_student_t_agrees_with_scipy(degrees: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert student_t(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-10)


def test_mean_interval_is_repeatable_and_about_the_normal_one() -> None:
    scores = torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 5
    found = mean_interval(scores)
    assert found == mean_interval(scores.tolist())
    assert found is not None and found.method == "bootstrap"
    mean, half = float(scores.mean()), 1.96 * float(scores.std()) / 20
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half), abs=0.15 * half)


def test_mean_interval_of_few_or_equal_scores() -> None:
    assert mean_interval([]) is None and mean_interval([1.0, 2.0]) is None
    equal = mean_interval([0.1] * 7)
    assert equal is not None and equal.low == equal.high == pytest.approx(0.1)


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="2 of 4 scores are not finite, the first is number 1"):
        mean_interval([1.0, math.nan, 2.0, math.inf])


@pytest.mark.parametrize("count", [5, 40])
def test_mean_interval_holds_the_mean_as_often_as_it_says(count: int) -> None:
    rng = np.random.default_rng(0)
    held = np.mean([holds(mean_interval(rng.normal(size=count).tolist()), 0.0) for _ in range(400)])
    assert 0.91 <= held <= 0.98


def test_bootstrap_of_a_median() -> None:
    values = np.random.default_rng(0).exponential(size=200)
    found = bootstrap(lambda chosen: float(np.median(values[chosen])), len(values))
    assert holds(found, math.log(2)) and holds(found, float(np.median(values)))
    assert found == bootstrap(lambda chosen: float(np.median(values[chosen])), len(values))
    assert bootstrap(lambda chosen: 0.0, 2) is None


def test_jackknife_of_a_mean_is_the_t_interval() -> None:
    stats = pytest.importorskip("scipy.stats")
    x = np.random.default_rng(0).normal(size=12)
    without = [float(np.delete(x, i).mean()) for i in range(len(x))]
    assert jackknife_variance(without) == pytest.approx(x.var(ddof=1) / len(x), rel=1e-12)
    expected = stats.t.interval(0.95, 11, loc=x.mean(), scale=stats.sem(x))
    found = jackknife(without, float(x.mean()))
    assert found is not None and (found.low, found.high) == pytest.approx(expected, rel=1e-10)
    assert jackknife(without[:2], 0.0) is None


def test_spread_of_two_sets_is_welchs_interval() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=8), rng.normal(size=30, scale=3)
    parts = [[float(np.delete(z, i).mean()) for i in range(len(z))] for z in (x, y)]
    found = spread_interval(0.0, parts)
    degrees = math.floor(stats.ttest_ind(x, y, equal_var=False).df)
    half = stats.t.ppf(0.975, degrees) * math.sqrt(x.var(ddof=1) / 8 + y.var(ddof=1) / 30)
    assert (found.low, found.high) == pytest.approx((-half, half), rel=1e-10)
    assert spread_interval(2.0, [[1.0, 1.0, 1.0]]) == Interval(2.0, 2.0, "jackknife")
    assert spread_interval(0.0, [[1.0, 1.0, 1.0]], added=4.0).high == pytest.approx(2 * 1.959964, rel=1e-6)


def test_paired_difference_sees_what_separate_means_can_not() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(scale=10, size=50)
    a, b = hard + 1 + rng.normal(scale=0.5, size=50), hard
    difference, found = paired_difference(a.tolist(), b.tolist())
    assert difference == pytest.approx(float((a - b).mean()))
    assert found is not None and 0 < found.low < 1 < found.high < 2
    back, mirrored = paired_difference(b.tolist(), a.tolist())
    assert back == -difference and mirrored is not None
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))
    separate = mean_interval(a.tolist())
    assert separate is not None and separate.high - separate.low > 4


def test_paired_difference_refuses_other_numbers_of_scores() -> None:
    with pytest.raises(InputError, match="got 3 and 2"):
        paired_difference([1, 2, 3], [1, 2])
    assert paired_difference([1.0], [3.0]) == (-2.0, None)
