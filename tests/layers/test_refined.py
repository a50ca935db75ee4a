"""What a network adds to the clip that it refines: the estimate of a Gaussian around it, on the path's own times."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kinolab.diffusion import Diffusion, DiffusionConfig
from kinolab.layers.refined import cosine_angle, refined_v
from tests.closeness import assert_close

PROCESS = Diffusion(DiffusionConfig(schedule="cosine_logsnr", prediction="v"))
TIMES = torch.tensor([1000.0, 700.0, 300.0, 20.0], dtype=torch.float64)


def batch(seed: int) -> Tensor:
    return torch.randn(4, 3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_its_times_are_the_paths() -> None:
    alpha, sigma = PROCESS.path.alpha_sigma(TIMES)
    assert_close(cosine_angle(TIMES).cos(), alpha)
    assert_close(cosine_angle(TIMES).sin(), sigma)


def test_a_network_of_nothing_makes_the_best_estimate_around_the_clip() -> None:
    """x ~ N(c, s^2): E[x | z] = c + k (z - alpha c), k = alpha s^2 / (alpha^2 s^2 + sigma^2)."""
    z, low, s = batch(0), batch(1), 0.1
    found = PROCESS.to_sample(refined_v(torch.zeros_like(z), z, TIMES, low, None, s), z, TIMES)
    alpha, sigma = PROCESS.coefficients(TIMES, z)
    k = alpha * s**2 / (alpha**2 * s**2 + sigma**2)
    assert_close(found, low + k * (z - alpha * low))
    assert_close(found[0], low[0], 1e-5)  # of noise alone the clip itself, up to a log SNR of -20


def test_what_it_predicts_has_the_variance_one() -> None:
    """With x drawn around c, the output that would be right is of unit size at every time."""
    s, count = 0.2, 4
    low = torch.randn(count, 3, 8, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    draws = [torch.randn(low.shape, dtype=low.dtype, generator=torch.Generator().manual_seed(k)) for k in (3, 4)]
    x, noise = low + s * draws[0], draws[1]
    z = PROCESS.q_sample(x, TIMES, noise)
    nothing = refined_v(torch.zeros_like(z), z, TIMES, low, None, s)
    unit = refined_v(torch.ones_like(z), z, TIMES, low, None, s) - nothing  # what a 1 of the output counts
    right = (PROCESS.target(x, noise, TIMES) - nothing) / unit
    assert right.square().mean((1, 2, 3, 4)).tolist() == pytest.approx([1.0] * count, rel=0.02)


def test_a_noisy_clip_is_trusted_less_and_noise_alone_not_at_all() -> None:
    z, clip, output = batch(0), batch(1), batch(2)
    level = torch.tensor([0.0, 0.3, 0.3, 1.0])
    told = level.double().view(-1, 1, 1, 1, 1)
    low = (1 - told**2).sqrt() * clip + told * batch(3)
    found = refined_v(output, z, TIMES, low, level, 0.1)
    assert_close(found[:1], refined_v(output[:1], z[:1], TIMES[:1], clip[:1], None, 0.1))
    assert_close(found[3], output[3])  # v-prediction without a clip
    estimate = PROCESS.to_sample(refined_v(torch.zeros_like(z), z, TIMES, low, level, 0.1), z, TIMES)
    alpha, sigma = PROCESS.coefficients(TIMES, z)
    centre, variance = (1 - told**2).sqrt() * low, 0.1**2 + (1 - 0.1**2) * told**2
    assert_close(estimate, centre + alpha * variance / (alpha**2 * variance + sigma**2) * (z - alpha * centre))
