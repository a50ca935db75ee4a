"""The kernel distance: direct formula, torchmetrics, unbiasedness, intervals, refusals."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kinolab.errors import InputError
from kinolab.metrics import kernel
from kinolab.metrics.base import Interval
from kinolab.metrics.kernel import KernelDistance, kernel_distance
from kinolab.metrics.statistics import spread_interval


def metric(real: Tensor, generated: Tensor, **settings: object) -> KernelDistance:
    found = KernelDistance(**settings)  # type: ignore[arg-type]
    found.update(real, real=True)
    found.update(generated, real=False)
    return found


def noise(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def direct(x: Tensor, y: Tensor) -> float:
    """The unbiased estimate, pair by pair."""

    def k(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_agrees_with_the_direct_formula() -> None:
    x, y = noise(23, 6, 1), noise(18, 6, 2) + 0.5
    expected = direct(x, y)
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-10)
    found = metric(x, y, subset_size=18, subsets=3)
    assert found.full().value == pytest.approx(expected, rel=1e-10)


def test_the_interval_has_the_variance_of_the_mean_over_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean of s estimates scatters by the variance of one over s."""
    drawn: list[float] = []
    added: list[float] = []

    def remembered(x: Tensor, y: Tensor) -> float:
        drawn.append(kernel_distance(x, y))
        return drawn[-1]

    def seen(value: float, parts: list[list[float]], variance: float = 0.0) -> Interval:
        added.append(variance)
        return spread_interval(value, parts, variance)

    monkeypatch.setattr(kernel, "kernel_distance", remembered)
    monkeypatch.setattr(kernel, "spread_interval", seen)
    found = metric(noise(60, 5, 1), noise(50, 5, 2) + 0.4, subset_size=20, subsets=7)
    value, whole = found.compute(), found.full()
    assert len(drawn) == 7 and value.value == pytest.approx(statistics.fmean(drawn), rel=1e-12)
    assert added == [pytest.approx(statistics.variance(drawn) / 7, rel=1e-9), 0.0]
    assert value.interval is not None and whole.interval is not None
    assert value.interval.high - value.interval.low > whole.interval.high - whole.interval.low


@pytest.mark.slow
def test_agrees_with_torchmetrics() -> None:
    kid = pytest.importorskip("torchmetrics.image.kid")

    class PassThrough(nn.Module):
        num_features = 12

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)

    x, y = noise(80, 12, 1), noise(80, 12, 2) * 1.3
    with pytest.warns(UserWarning, match="memory footprint"):
        other = kid.KernelInceptionDistance(feature=PassThrough(), subsets=2, subset_size=80)
    other.set_dtype(torch.float64)
    other.update(x[:, :, None, None], real=True)
    other.update(y[:, :, None, None], real=False)
    expected = float(other.compute()[0])
    found = metric(x, y, subsets=2, subset_size=80)  # a subset of all samples: the order it is drawn in is no matter
    assert found.compute().value == pytest.approx(expected, rel=1e-6)
    assert found.full().value == pytest.approx(expected, rel=1e-6)


def test_long_sets_are_summed_in_parts() -> None:
    x, y = noise(1500, 3, 1), noise(1100, 3, 2)
    k = lambda a, b: (a @ b.T / 3 + 1) ** 3  # noqa: E731
    within = [(k(z, z).sum() - k(z, z).diagonal().sum()) / (len(z) * (len(z) - 1)) for z in (x, y)]
    expected = float(within[0] + within[1] - 2 * k(x, y).mean())
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-8)


def test_the_block_estimate_is_around_the_full_one() -> None:
    x, y = noise(200, 8, 1), noise(150, 8, 2) + 0.3
    found = metric(x, y, subsets=200, subset_size=50)
    block, full = found.compute(), found.full()
    assert block.value == pytest.approx(full.value, rel=0.1) and block.value != full.value
    assert block == metric(x, y, subsets=200, subset_size=50).compute()
    assert block.value != metric(x, y, subsets=200, subset_size=50, seed=1).compute().value
    assert block.protocol["subset_size"] == 50 and block.protocol["subsets"] == 200 and block.count == 150
    assert full.protocol["subsets"] == "all samples"
    assert block.interval is not None and full.interval is not None
    assert block.interval.high - block.interval.low >= 0.99 * (full.interval.high - full.interval.low)


@pytest.mark.parametrize("shift", [0.0, 0.4])
@pytest.mark.slow
def test_unbiased_and_as_sure_as_it_says(shift: float) -> None:
    generator = torch.Generator().manual_seed(0)
    values, intervals = [], []
    for _ in range(200):
        draw = torch.randn(2, 40, 4, dtype=torch.float64, generator=generator)
        value = metric(draw[0], draw[1] + shift).full()
        values.append(value.value)
        intervals.append(value.interval)
    true = mean_kernel(4, 0, 0) + mean_kernel(4, shift, shift) - 2 * mean_kernel(4, 0, shift)
    assert abs(np.mean(values) - true) < 3.5 * np.std(values) / 200**0.5
    if not shift:
        assert true == pytest.approx(0, abs=1e-12) and min(values) < 0
    assert np.mean([i is not None and i.low <= true <= i.high for i in intervals]) >= 0.91


def mean_kernel(D: int, a: float, b: float) -> float:
    """E k(x, y) for independent x ~ N(a, 1)^D and y ~ N(b, 1)^D: 1 + 3 E s + 3 E s^2 + E s^3 with s = x.y / D."""
    # moments of the product of one entry of each, and from them those of the sum over D entries
    m1, m2, m3 = a * b, (1 + a * a) * (1 + b * b), (a**3 + 3 * a) * (b**3 + 3 * b)
    second = D * m2 + D * (D - 1) * m1**2
    third = D * m3 + 3 * D * (D - 1) * m2 * m1 + D * (D - 1) * (D - 2) * m1**3
    return 1 + 3 * m1 + 3 * second / D**2 + third / D**3


def test_order_does_not_matter_and_batches_neither() -> None:
    x, y = noise(60, 5, 1), noise(60, 5, 2)
    parts = KernelDistance(subset_size=30)
    for a, b in zip(x.split(7), y.split(7), strict=True):
        parts.update(b, real=False)
        parts.update(a, real=True)
    whole = metric(x, y, subset_size=30)
    assert parts.compute() == whole.compute() and parts.full() == whole.full()
    assert metric(x.flip(0), y).full().value == pytest.approx(whole.full().value, rel=1e-10)


def test_more_samples_after_a_result_count() -> None:
    x, y = noise(40, 5, 1), noise(40, 5, 2)
    found = metric(x[:20], y[:20])
    before = found.full().value
    found.update(x[20:], real=True)
    found.update(y[20:], real=False)
    assert found.full().value == pytest.approx(metric(x, y).full().value) and found.full().value != before


def test_above_the_maximum_a_choice_is_kept() -> None:
    x, y = noise(500, 5, 1), noise(500, 5, 2) + 1
    value = metric(x, y, maximum=200, subset_size=100).full()
    assert value.protocol["maximum"] == 200 and value.count == 500
    every = metric(x, y).full().value
    assert value.value == pytest.approx(every, rel=0.3) and value.value != every


def test_pairs_are_left_out_together() -> None:
    x = noise(100, 5, 1)
    y = x + 0.5
    apart, together = metric(x, y).full(), metric(x, y, paired=True).full()
    assert apart.value == together.value and apart.interval is not None and together.interval is not None
    assert together.interval.high - together.interval.low < apart.interval.high - apart.interval.low
    with pytest.raises(InputError, match="equally many"):
        metric(x, y[:90], paired=True).full()


def test_refusals() -> None:
    x = noise(100, 5, 1)
    with pytest.raises(InputError, match="kvd needs at least 1000 real samples, got 100: "):
        metric(x, x).compute()
    with pytest.raises(InputError, match="kid needs at least 16 generated samples, got 2: "):
        metric(x, x[:2], name="kid").full()
    bad = x.clone()
    bad[7, 0] = torch.nan
    with pytest.raises(InputError, match=r"kvd \(real\): 1 of 100 .* sample 7 "):
        metric(bad, x)
    for settings in ({"subset_size": 1}, {"subsets": 0}, {"maximum": 10}, {"minimum": 1}, {"groups": 2}):
        with pytest.raises(InputError):
            metric(x, x, **settings)
    with pytest.raises(InputError, match="at least two feature vectors"):
        kernel_distance(x[:1], x)


def test_frames_of_one_clip_are_left_out_together() -> None:
    generator = torch.Generator().manual_seed(5)
    real, made = (torch.randn(60, 6, generator=generator) + shift for shift in (0.0, 0.4))

    def width(per: int, repeats: int) -> float:
        metric = KernelDistance("kid", per=per)
        metric.update(real.repeat_interleave(repeats, 0), True)
        metric.update(made.repeat_interleave(repeats, 0), False)
        interval = metric.full().interval
        assert interval is not None
        return interval.high - interval.low

    once, together, alone = width(1, 1), width(8, 8), width(1, 8)
    assert abs(together / once - 1) < 0.25
    assert alone < 0.6 * once
