"""Every prediction type is the same thing in other coordinates."""

from __future__ import annotations

import itertools

import pytest
import torch

from kinolab.diffusion.conversions import (
    Prediction,
    convert,
    from_sample_and_noise,
    noise_to_sample,
    sample_gain,
    sample_to_noise,
    v_to_noise,
    v_to_sample,
    velocity_to_noise,
    velocity_to_sample,
)
from tests.closeness import assert_close

TYPES: list[Prediction] = ["noise", "sample", "v", "flow", "edm"]
PATHS = {"variance-preserving": (0.8, 0.6), "rectified flow": (0.7, 0.3)}


def setup(name: str) -> tuple[torch.Tensor, ...]:
    alpha, sigma = (torch.tensor(c, dtype=torch.float64) for c in PATHS[name])
    x, e = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x, e, alpha * x + sigma * e, alpha, sigma


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("source", "target"), list(itertools.product(TYPES, TYPES)))
def test_every_pair_agrees_with_the_definition_and_comes_back(
    path: str, source: Prediction, target: Prediction
) -> None:
    x, e, z, alpha, sigma = setup(path)
    value = from_sample_and_noise(x, e, alpha, sigma, source)
    there = convert(value, z, alpha, sigma, source, target)
    assert_close(there, from_sample_and_noise(x, e, alpha, sigma, target), within=1e-12)
    assert_close(convert(there, z, alpha, sigma, target, source), value, within=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_named_conversions(path: str) -> None:
    x, e, z, alpha, sigma = setup(path)
    v, u = alpha * e - sigma * x, e - x
    for actual, expected in [
        (noise_to_sample(e, z, alpha, sigma), x),
        (sample_to_noise(x, z, alpha, sigma), e),
        (v_to_sample(v, z, alpha, sigma), x),
        (v_to_noise(v, z, alpha, sigma), e),
        (velocity_to_sample(u, z, alpha, sigma), x),
        (velocity_to_noise(u, z, alpha, sigma), e),
    ]:
        assert_close(actual, expected, within=1e-12)


@pytest.mark.parametrize("source", ["sample", "v", "flow", "edm"])
def test_pure_noise_is_no_obstacle_for_all_but_noise(source: Prediction) -> None:
    x, e = torch.randn(2, 8, generator=torch.Generator().manual_seed(1)).double()
    alpha, sigma = torch.tensor(0.0).double(), torch.tensor(1.0).double()
    value = from_sample_and_noise(x, e, alpha, sigma, source)
    assert_close(convert(value, e, alpha, sigma, source, "sample"), x)
    assert_close(convert(value, e, alpha, sigma, source, "noise"), e)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("source", TYPES)
def test_sample_gain_is_the_derivative(path: str, source: Prediction) -> None:
    x, e, z, alpha, sigma = setup(path)
    value = from_sample_and_noise(x, e, alpha, sigma, source)
    moved = convert(value + 1.0, z, alpha, sigma, source, "sample")
    gain = sample_gain(alpha, sigma, source)
    assert_close((moved - x).abs(), gain.expand_as(x), within=1e-10)
