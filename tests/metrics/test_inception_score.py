"""The Inception Score: closed forms, torchmetrics, a direct formula, intervals, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kinolab.errors import InputError
from kinolab.metrics.base import MetricValue
from kinolab.metrics.features import group_numbers
from kinolab.metrics.inception_score import InceptionScore


def probabilities(count: int, classes: int = 10, seed: int = 0, sharpness: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(count, classes, dtype=torch.float64, generator=generator)).softmax(1)


def score(p: Tensor, **settings: object) -> MetricValue:
    found = InceptionScore(**settings)  # type: ignore[arg-type]
    for part in p.split(7):
        found.update(part)
    return found.compute()


def direct(p: Tensor) -> float:
    return float((p * (p.log() - p.mean(0).log())).sum(1).mean().exp())


def test_closed_forms() -> None:
    assert score(torch.full((40, 5), 0.2), splits=1).value == pytest.approx(1.0, rel=1e-6)
    sure = torch.eye(5).repeat(20, 1)  # each class as often: all classes, surely
    value = score(sure, splits=1)
    assert value.value == pytest.approx(5.0, rel=1e-12)
    half = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]).repeat(20, 1)
    # entropy of the mean (1/4, 1/4, 1/2) minus the mean entropy: 1.5 ln 2 - 0.5 ln 2
    assert score(half, splits=1).value == pytest.approx(2.0, rel=1e-12)


@pytest.mark.slow
def test_one_split_agrees_with_torchmetrics() -> None:
    inception = pytest.importorskip("torchmetrics.image.inception")

    class PassThrough(nn.Module):
        num_features = 10

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)

    p = probabilities(90)
    with pytest.warns(UserWarning, match="memory footprint"):
        other = inception.InceptionScore(feature=PassThrough(), splits=1)
    other.set_dtype(torch.float64)
    other.update(p.log()[:, :, None, None])
    with pytest.warns(UserWarning, match="degrees of freedom"):  # its deviation over one split
        expected = float(other.compute()[0])
    assert score(p, splits=1).value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("splits", [2, 4, 10])
def test_splits_are_the_mean_over_parts(splits: int) -> None:
    p = probabilities(103)
    groups = splits * -(-10 // splits)
    numbers = group_numbers(0, 103, groups, 5) % splits
    expected = np.mean([direct(p[numbers == k]) for k in range(splits)])
    value = score(p, splits=splits, seed=5)
    assert value.value == pytest.approx(float(expected), rel=1e-10)
    assert value.protocol["splits"] == splits and value.count == 103


def test_order_and_batches_do_not_matter() -> None:
    p = probabilities(60)
    whole = InceptionScore(splits=1)
    whole.update(p)
    assert whole.compute().value == pytest.approx(score(p, splits=1).value, rel=1e-12)
    assert whole.compute().value == pytest.approx(score(p.flip(0), splits=1).value, rel=1e-12)


@pytest.mark.parametrize("splits", [1, 10])
@pytest.mark.slow
def test_the_interval_holds_as_often_as_it_says(splits: int) -> None:
    values = [score(probabilities(80, seed=seed), splits=splits) for seed in range(120)]
    mean = np.mean([v.value for v in values])
    held = np.mean([v.interval is not None and v.interval.low <= mean <= v.interval.high for v in values])
    assert held >= 0.9
    assert all(v.interval is not None and v.interval.low >= 1 for v in values)


def test_refusals() -> None:
    p = probabilities(60)
    with pytest.raises(InputError, match="is needs at least 20 samples for 10 splits, got 19"):
        score(p[:19])
    with pytest.raises(InputError, match="at least 16 samples for 1 splits, got 2"):
        score(p[:2], splits=1)
    with pytest.raises(InputError, match="apply a softmax"):
        score(p.log())
    with pytest.raises(InputError, match="apply a softmax"):
        score(2 * p)
    bad = p.clone()
    bad[11, 3] = torch.nan
    with pytest.raises(InputError, match=r"1 of 7 feature vectors .* sample 11 "):
        score(bad)
    with pytest.raises(InputError, match="at least 1 split"):
        InceptionScore(splits=0)
