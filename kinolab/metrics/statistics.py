"""How sure a score is: intervals for shares, means, differences of two systems, and any statistic of the samples.

All intervals are two-sided and hold the true value in about `LEVEL` of all repetitions, where a repetition draws new
samples. They say nothing about what all samples share: one training run, one extractor, one set of prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kinolab.errors import InputError
from kinolab.metrics.base import LEVEL, Interval

Z95 = 1.959963984540054
"""The 97.5% point of the standard normal."""
DRAWS = 1000
MIN_SAMPLES = 3
"""Below this many samples their spread says nothing, and there is no interval."""
_CHUNK = 1 << 21
"""Random numbers held at once."""

Vector = NDArray[np.float64]


def wilson(passed: float, count: float) -> Interval:
    """The interval of a share, passed of count (Wilson 1927); holds near 0 and 1 and for few samples.

    centre = (p + z^2 / 2n) / (1 + z^2 / n), half = z / (1 + z^2 / n) sqrt(p (1 - p) / n + z^2 / 4n^2), cut to [0, 1].
    `count` need not be whole: it may be the effective number of independent samples. 0 of 0 is 0..1.

    Raises:
        InputError: unless 0 <= passed <= count.
    """
    if not 0 <= passed <= count or not math.isfinite(count):
        raise InputError(f"a share needs 0 <= passed <= count, got {passed} of {count}")
    if count == 0:
        return Interval(0.0, 1.0, "wilson")
    n, p, zz = count, passed / count, Z95**2
    centre = (p + zz / (2 * n)) / (1 + zz / n)
    half = Z95 / (1 + zz / n) * math.sqrt(p * (1 - p) / n + zz / (4 * n * n))
    # at the ends of the scale the limit is exact, not a rounding error away from it
    low = 0.0 if passed == 0 else max(0.0, centre - half)
    high = 1.0 if passed == count else min(1.0, centre + half)
    return Interval(low, high, "wilson")


def mean_interval(scores: Sequence[float] | Tensor, draws: int = DRAWS, seed: int = 0) -> Interval | None:
    """The interval of the mean of scores, one per independent sample: percentile bootstrap (Efron 1979).

    Draws n samples of the n with replacement, `draws` times; the interval holds the middle of their means. How much of
    it is expanded for few samples (Hesterberg 2015), for which 95% would be too narrow: the tails are
    Phi(-sqrt(n / (n - 1)) t), with t of n - 1 degrees of freedom. The same scores give the same interval. Give one
    score per clip where the frames of a clip are alike. None below `MIN_SAMPLES`.

    Raises:
        InputError: where a score is not finite.
    """
    values = _vector(scores)
    if len(values) < MIN_SAMPLES:
        return None
    n, rng = len(values), np.random.default_rng(seed)
    centre = float(values.mean())
    rest = values - centre  # keeps the digits of small spreads around large means
    step = max(1, _CHUNK // n)
    means = [rest[rng.integers(0, n, (min(step, draws - i), n))].mean(1) for i in range(0, draws, step)]
    return _percentiles(np.concatenate(means) + centre, n)


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float], count: int, draws: int = DRAWS, seed: int = 0
) -> Interval | None:
    """The percentile bootstrap of any statistic of `count` samples (Efron 1979), expanded as in `mean_interval`.

    `statistic` is given `count` indices of samples, drawn with replacement, and gives the value on them. Not for
    statistics that repeated samples distort (covariances of few samples, nearest neighbours): use `jackknife` there.
    None below `MIN_SAMPLES` samples.
    """
    if count < MIN_SAMPLES:
        return None
    rng = np.random.default_rng(seed)
    return _percentiles(np.array([statistic(rng.integers(0, count, count)) for _ in range(draws)]), count)


def paired_difference(
    a: Sequence[float] | Tensor, b: Sequence[float] | Tensor, draws: int = DRAWS, seed: int = 0
) -> tuple[float, Interval | None]:
    """mean(a - b) and its interval, for the scores of two systems on the same samples in the same order.

    What makes a sample easy or hard is in both scores and cancels, so that the interval is narrower than that of two
    separate means. Bootstrap of the differences as in `mean_interval`. The difference is larger than the noise where
    the interval leaves out 0.

    Raises:
        InputError: where the numbers of scores differ, there are none, or one is not finite.
    """
    x, y = _vector(a), _vector(b)
    if len(x) != len(y) or not len(x):
        raise InputError(f"a paired difference needs one score of each system per sample, got {len(x)} and {len(y)}")
    return float((x - y).mean()), mean_interval((x - y).tolist(), draws, seed)


def jackknife_variance(leave_one_out_values: Sequence[float]) -> float:
    """The jackknife's variance of a statistic (Tukey 1958): (g - 1) / g sum_i (v_i - mean v)^2.

    v_i is the statistic without sample i, or without group i of g groups of equal size (delete-group jackknife).
    """
    values = _vector(leave_one_out_values)
    assert len(values) >= 2, "the jackknife needs two groups"
    return float((len(values) - 1) / len(values) * np.square(values - values.mean()).sum())


def jackknife(leave_one_out_values: Sequence[float], value: float) -> Interval | None:
    """value +- t sqrt(`jackknife_variance`), t the 97.5% point of Student's t with g - 1 degrees of freedom.

    Centred on the value as it is: the bias that the statistic has at this number of samples is not taken away, so the
    interval is for the value that new samples of the same number would give on average. None below `MIN_SAMPLES`.
    """
    if len(leave_one_out_values) < MIN_SAMPLES:
        return None
    return spread_interval(value, [leave_one_out_values])


def spread_interval(value: float, parts: Sequence[Sequence[float]], added: float = 0.0) -> Interval:
    """The jackknife interval of a statistic of several independent sets of samples, e.g. real and generated ones.

    `parts`: for every set the values without one of its groups each. The variances of the sets add; the degrees of
    freedom are Welch's (1947): (sum V_i)^2 / sum (V_i^2 / (g_i - 1)). `added`: a variance known besides, e.g. of random
    subsets that the value is computed on.
    """
    variances = [(jackknife_variance(values), len(values) - 1) for values in parts]
    spread = sum(variance for variance, _ in variances)
    total = spread + added
    if spread == 0:
        return Interval(value - Z95 * math.sqrt(added), value + Z95 * math.sqrt(added), "jackknife")
    degrees = total**2 / sum(variance**2 / freedom for variance, freedom in variances)
    half = student_t(max(1, math.floor(degrees))) * math.sqrt(total)
    return Interval(value - half, value + half, "jackknife")


def student_t(degrees: int) -> float:
    """The 97.5% point of Student's t: where the closed form of P(|T| < t) (Abramowitz, Stegun 26.7.3-4) is `LEVEL`."""
    low, high = 0.0, math.pi / 2  # theta = atan(t / sqrt(degrees)): bounded, and the form's own variable
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < LEVEL else (low, middle)
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _within(theta: float, degrees: int) -> float:
    """P(|T| < sqrt(degrees) tan theta)."""
    cos, odd = math.cos(theta), degrees % 2
    if degrees == 1:
        return 2 * theta / math.pi
    term = cos if odd else 1.0
    total = term
    for k in range(2 + odd, degrees, 2):  # each term is the one before times (k - 1) / k cos^2
        term *= (k - 1) / k * cos * cos
        total += term
    total *= math.sin(theta)
    return 2 / math.pi * (theta + total) if odd else total


def _percentiles(values: Vector, count: int) -> Interval:
    """Hesterberg's expanded percentiles of bootstrap values of a statistic of `count` samples."""
    tail = 50 * math.erfc(math.sqrt(count / (count - 1) / 2) * student_t(count - 1))  # Phi(-x) = erfc(x / sqrt 2) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return Interval(float(low), float(high), "bootstrap")


def _vector(scores: Sequence[float] | Tensor) -> Vector:
    if isinstance(scores, Tensor):
        scores = scores.detach().flatten().cpu().double().tolist()
    values = np.asarray(scores, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise InputError(f"{len(bad)} of {len(values)} scores are not finite, the first is number {bad[0]}")
    return values
