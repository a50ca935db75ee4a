"""The Frechet distance: closed form, independent implementations, few samples, intervals, extrapolation, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kinolab.errors import InputError
from kinolab.metrics.frechet import FrechetDistance, frechet_distance
from kinolab.metrics.moments import FeatureMoments, GroupedMoments

pytestmark = pytest.mark.slow  # many short ones, which take long together


def samples(count: int, width: int, seed: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, dtype=torch.float64, generator=generator) / width**0.5
    return torch.randn(count, width, dtype=torch.float64, generator=generator) @ mixing + shift


def moments(x: Tensor) -> FeatureMoments:
    found = FeatureMoments(x.shape[1])
    found.update(x)
    return found


def metric(real: Tensor, generated: Tensor, **settings: object) -> FrechetDistance:
    found = FrechetDistance(**settings)  # type: ignore[arg-type]
    found.update(real, real=True)
    found.update(generated, real=False)
    return found


class PassThrough(nn.Module):
    """Features as images (N, D, 1, 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


@pytest.mark.parametrize(("n", "m"), [(200, 150), (200, 12), (10, 200), (12, 9)])
def test_agrees_with_scipys_matrix_square_root(n: int, m: int) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    x, y = samples(n, 16, 1), samples(m, 16, 2, shift=0.5)
    c, d = np.cov(x.numpy(), rowvar=False), np.cov(y.numpy(), rowvar=False)
    # of the symmetric form: the root of C D itself does not exist for every singular product
    values, vectors = np.linalg.eigh(c)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    product = root @ d @ root
    overlap = np.trace(linalg.sqrtm(product + 1e-18 * np.eye(16)).real)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c) + np.trace(d) - 2 * overlap
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(float(expected), rel=1e-6)


def test_agrees_with_torchmetrics() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    x, y = samples(300, 24, 1), samples(200, 24, 2, shift=0.2)
    other = fid.FrechetInceptionDistance(feature=PassThrough(24)).set_dtype(torch.float64)
    other.update(x[:, :, None, None], real=True)
    other.update(y[:, :, None, None], real=False)
    value = metric(x, y).compute()
    assert value.value == pytest.approx(float(other.compute()), rel=1e-6)
    assert value.count == 200


def test_closed_form_of_gaussians() -> None:
    """Samples whose moments are known exactly: +- columns of a factor."""

    def exact(mean: Tensor, deviation: Tensor) -> Tensor:
        D = len(mean)
        rows = torch.diag(deviation) * ((2 * D - 1) / 2) ** 0.5
        return torch.cat([rows, -rows]) + mean

    a, b = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 2.0, 0.0]).double()
    mean = torch.tensor([0.3, -1.0, 2.0]).double()
    # commuting covariances: |m|^2 + sum (a - b)^2
    expected = float(mean.square().sum() + (a - b).square().sum())
    found = frechet_distance(moments(exact(torch.zeros(3).double(), a)), moments(exact(mean, b)))
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("count", "width"), [(300, 20), (20, 60), (60, 60), (61, 60)])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_zero_on_identical_sets(count: int, width: int, scale: float) -> None:
    # a spectrum over six orders of magnitude and features that are always zero, as real ones have
    spectrum = torch.logspace(0, -6, width, dtype=torch.float64)
    spectrum[-3:] = 0
    x = samples(count, width, 1) * spectrum * scale
    value = metric(x, x.flip(0)).compute()
    least = 1e-9 * float(x.var(0).sum())
    assert 0 <= value.value < least
    assert frechet_distance(moments(x), moments(x)) < least
    y = samples(count, width, 2) * spectrum * scale
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(frechet_distance(moments(y), moments(x)))


def test_few_samples_give_the_same_as_the_full_covariance() -> None:
    x, y = samples(12, 40, 1), samples(15, 40, 2)
    low, full = moments(x), moments(x)
    full._fold()
    assert low.low_rank and not full.low_rank
    assert frechet_distance(full, moments(y)) == pytest.approx(frechet_distance(low, moments(y)), rel=1e-10)


def test_order_and_batches_do_not_matter() -> None:
    x, y = samples(150, 12, 1), samples(90, 12, 2)
    whole = metric(x, y)
    parts = FrechetDistance()
    for a, b in zip(x.split(25), y.split(15), strict=True):
        parts.update(b, real=False)
        parts.update(a, real=True)
    value = parts.compute()
    assert value.value == pytest.approx(whole.compute().value, rel=1e-12)
    assert value.interval is not None and whole.compute().interval is not None
    assert value.interval.low == pytest.approx(whole.compute().interval.low, rel=1e-8)  # type: ignore[union-attr]
    assert metric(x.flip(0), y).compute().value == pytest.approx(value.value, rel=1e-12)


def test_a_saved_reference_gives_the_same_score(tmp_path: Path) -> None:
    x, y, protocol = samples(150, 12, 1), samples(90, 12, 2), {"extractor": "toy"}
    live = metric(x, y, protocol=protocol)
    live.real_moments.save(tmp_path / "real.safetensors")
    cached = FrechetDistance(protocol=protocol, reference=GroupedMoments.load(tmp_path / "real.safetensors"))
    cached.update(y, real=False)
    assert cached.compute() == live.compute() and cached.extrapolated() == live.extrapolated()
    with pytest.raises(InputError, match="already given"):
        cached.update(x, real=True)
    with pytest.raises(InputError, match="made with extractor toy, this protocol has i3d"):
        FrechetDistance(protocol={"extractor": "i3d"}, reference=live.real_moments)
    with pytest.raises(InputError, match="made with groups 10, this protocol has 5"):
        FrechetDistance(groups=5, reference=live.real_moments)


def gaussian_pair(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Two sets in 16 dimensions, at the distance 16 (0.3^2 + 0.5^2) = 5.44."""
    draw = torch.randn(2, count, 16, dtype=torch.float64, generator=generator)
    return draw[0], 1.5 * draw[1] + 0.3


def test_extrapolation_recovers_the_distance_of_the_distributions() -> None:
    generator, true = torch.Generator().manual_seed(0), 5.44
    plain, infinite, held, held_true = [], [], [], []
    for _ in range(60):
        found = metric(*gaussian_pair(generator, 64), extrapolate="both")
        value, far = found.compute(), found.extrapolated()
        plain.append(value.value)
        infinite.append(far.value)
        assert value.interval is not None and far.interval is not None
        held.append(value.interval)
        held_true.append(far.interval.low <= true <= far.interval.high)
    assert np.mean(plain) - true > 1.0  # the excess of 64 samples
    assert abs(np.mean(infinite) - true) < 0.25
    # the plain interval is for the mean at this number of samples, the other for the distributions
    assert np.mean([i.low <= np.mean(plain) <= i.high for i in held]) >= 0.9
    assert np.mean(held_true) >= 0.88


def test_extrapolation_states_its_protocol_and_its_limits() -> None:
    x, y = gaussian_pair(torch.Generator().manual_seed(0), 100)
    found = metric(x, y)
    value = found.extrapolated()
    assert value.protocol["metric"] == "fvd_infinite" and value.protocol["extrapolated_samples"] == "generated"
    assert value.protocol["extrapolation_sizes"] == "100, 80, 60, 50"
    assert found.compute().protocol["metric"] == "fvd" and "extrapolation" not in found.compute().protocol
    # half of 20 samples in 16 dimensions: no line, no interval
    assert metric(x, y[:20]).extrapolated().interval is None
    with pytest.raises(InputError, match="at least 10 samples, one per group"):
        metric(x, y[:8], minimum=4).extrapolated()


def test_paired_samples_are_left_out_together() -> None:
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(200, 8, dtype=torch.float64, generator=generator)
    rebuilt = 0.7 * clips + 0.5 + 0.05 * torch.randn(200, 8, dtype=torch.float64, generator=generator)
    apart, together = metric(clips, rebuilt).compute(), metric(clips, rebuilt, paired=True).compute()
    assert apart.value == together.value
    assert apart.interval is not None and together.interval is not None
    assert together.interval.high - together.interval.low < 0.7 * (apart.interval.high - apart.interval.low)
    with pytest.raises(InputError, match="equally many, got 200 real and 199 generated"):
        metric(clips, rebuilt[:199], paired=True).compute()


@pytest.mark.parametrize("count", [2, 15])
def test_too_few_samples_are_refused(count: int) -> None:
    x = samples(50, 8, 1)
    for real, generated, kind in ((x, x[:count], "generated"), (x[:count], x, "real")):
        with pytest.raises(InputError, match=f"fvd needs at least 16 {kind} samples, got {count}: ") as error:
            metric(real, generated).compute()
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="minimum must be at least 2 samples, got 1"):
        FrechetDistance(minimum=1)
    with pytest.raises(InputError, match="needs at least 16 real samples, got 0"):
        FrechetDistance().compute()


def test_two_samples_are_enough_only_where_a_protocol_says_so() -> None:
    value = metric(samples(2, 8, 1), samples(2, 8, 2), minimum=2).compute()
    assert value.value > 0 and value.interval is None and value.protocol["minimum"] == 2


def test_bad_features_are_refused_and_not_counted() -> None:
    x = samples(40, 8, 1)
    found = metric(x, x)
    bad = x.clone()
    bad[3] = torch.nan
    with pytest.raises(InputError, match=r"fvd \(generated\): 1 of 40 feature .* first is of sample 43 "):
        found.update(bad, real=False)
    with pytest.raises(InputError, match="width 8 as before, got 9"):
        found.update(samples(3, 9, 1), real=False)
    assert found.compute().count == 40
    with pytest.raises(InputError, match="width 8 and 9"):
        frechet_distance(moments(x), moments(samples(20, 9, 1)))


def test_frames_of_one_clip_are_left_out_together() -> None:
    """Eight equal frames of each clip say no more than one of them, and the interval must not claim more."""
    generator = torch.Generator().manual_seed(5)
    real, made = (torch.randn(60, 6, generator=generator) + shift for shift in (0.0, 0.4))

    def width(per: int, repeats: int) -> float:
        metric = FrechetDistance("fid", per=per)
        metric.update(real.repeat_interleave(repeats, 0), True)
        metric.update(made.repeat_interleave(repeats, 0), False)
        interval = metric.compute().interval
        assert interval is not None
        return interval.high - interval.low

    once, together, alone = width(1, 1), width(8, 8), width(1, 8)
    assert abs(together / once - 1) < 0.15
    assert alone < 0.5 * once, "frames dealt one by one would hide the noise"
