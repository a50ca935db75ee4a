"""Guidance by a given part, on a Gaussian whose conditional distribution is known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from kinolab.contracts.method import Denoised, Run
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.methods import Held, SteeringConfig
from tests.closeness import ALLOWED, assert_close, assert_small

FRAMES, RHO = 6, 0.9
SEEN = torch.tensor([1.0, 1.5], dtype=torch.float64)
COVARIANCE = RHO ** (torch.arange(FRAMES)[:, None] - torch.arange(FRAMES)[None]).abs().double()
GAIN = COVARIANCE[2:, :2] @ torch.linalg.inv(COVARIANCE[:2, :2])
MEAN = GAIN @ SEEN
DEVIATION = (COVARIANCE[2:, 2:] - GAIN @ COVARIANCE[:2, 2:]).diagonal().sqrt()


@dataclass(frozen=True)
class Nothing:
    label: None = None
    text: None = None
    pooled: None = None


def setup(schedule: Any = "linear", count: int = 1500) -> tuple[Diffusion, Any, torch.Tensor, torch.Tensor]:
    """A diffusion, the exact denoiser of a stationary autoregressive process of 6 frames, given latents, known ones."""
    flow = schedule == "flow"
    diffusion = Diffusion(DiffusionConfig(schedule=schedule, prediction="flow" if flow else "noise"))

    def denoiser(z: torch.Tensor, t: torch.Tensor, conditions: object) -> torch.Tensor:
        alpha, sigma = diffusion.path.scalars(float(t[0]))
        noisy = alpha**2 * COVARIANCE + sigma**2 * torch.eye(FRAMES, dtype=torch.float64)
        x = (z.flatten(1) @ torch.linalg.inv(noisy) @ (alpha * COVARIANCE)).view_as(z)
        noise = (z - alpha * x) / sigma
        return noise - x if flow else noise

    given = torch.zeros(count, 1, FRAMES, 1, 1, dtype=torch.float64)
    given[:, :, :2] = SEEN.view(1, 1, 2, 1, 1)
    known = torch.zeros(given.shape, dtype=torch.bool)
    known[:, :, :2] = True
    return diffusion, denoiser, given, known


def sampled(schedule: Any, sampler: Any, config: SteeringConfig) -> torch.Tensor:
    """Samples (N, 6)."""
    diffusion, denoiser, given, known = setup(schedule)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(given.shape, generator=generator, dtype=torch.float64)
    steering = config.build(Held(given, known))
    conditions: Any = Nothing()
    return diffusion.sample(
        denoiser,
        noise,
        conditions,
        sampler=SamplerConfig(name=sampler, steps=50),
        generator=generator,
        methods=[steering],
    ).flatten(1)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["linear", "flow"])
@pytest.mark.parametrize("sampler", ["ddpm", "euler", "heun"])
def test_replacement_is_wrong_and_reconstruction_guidance_comes_close(schedule: str, sampler: str) -> None:
    wrong = sampled(schedule, sampler, SteeringConfig(method="replacement"))
    close = sampled(schedule, sampler, SteeringConfig(method="reconstruction", weight=5.0))
    for samples in (wrong, close):
        assert_small(samples[:, :2] - SEEN, beside=samples, what="the given part itself comes out as it was given")
    far, near = ((s[:, 2:].mean(0) - MEAN).abs() for s in (wrong, close))
    assert far[0] > 0.45 and far.mean() > 0.45, "replacement forgets most of what was given"
    assert near.mean() < (0.15 if sampler == "ddpm" else 0.32)
    assert near.mean() < 0.5 * far.mean()
    spread = [(s[:, 2:].std(0) - DEVIATION).abs().mean() for s in (wrong, close)]
    assert spread[1] < spread[0], "its samples are also as different from each other as they should be"


def test_weight_zero_is_replacement() -> None:
    one = sampled("flow", "euler", SteeringConfig(method="replacement"))
    assert torch.equal(one, sampled("flow", "euler", SteeringConfig(weight=0.0)))


@pytest.mark.parametrize("sampler", ["ddim", "euler", "heun", "dpmpp_2m"])
def test_replacement_follows_the_forward_process_of_the_given_part(sampler: Any) -> None:
    """At every step z's known part is alpha x + sigma e, with the noise e that sampling began with."""
    diffusion, denoiser, given, known = setup("flow", count=2)
    noise = torch.randn(given.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    seen: list[float] = []

    def watched(z: torch.Tensor, t: torch.Tensor, conditions: object) -> torch.Tensor:
        alpha, sigma = diffusion.path.scalars(float(t[0]))
        expected = alpha * given + sigma * noise
        seen.append(float((z - expected)[known].abs().max() / expected.std()))
        return denoiser(z, t, conditions)

    conditions: Any = Nothing()
    steering = SteeringConfig(method="replacement").build(Held(given, known))
    diffusion.sample(watched, noise, conditions, sampler=SamplerConfig(name=sampler, steps=8), methods=[steering])
    assert len(seen) >= 8 and max(seen) < ALLOWED[torch.float64]


def test_an_error_of_ones_own_is_followed() -> None:
    """Pixels that are the latents' sums: only the sum of the first two frames is given."""
    diffusion, denoiser, given, known = setup("flow", count=400)
    nowhere = torch.zeros_like(known)

    def residual(x: torch.Tensor) -> torch.Tensor:
        return 3.0 - x[:, :, :2].sum(2)

    conditions: Any = Nothing()
    sums = []
    for weight in (0.0, 4.0):
        steering = SteeringConfig(weight=weight).build(Held(given, nowhere, residual))
        noise = torch.randn(given.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        samples = diffusion.sample(
            denoiser, noise, conditions, sampler=SamplerConfig(name="euler", steps=40), methods=[steering]
        )
        sums.append(float(samples[:, 0, :2].sum(1).mean()))
    assert abs(sums[0]) < 0.3 and abs(sums[1] - 3.0) < 0.4


@pytest.mark.parametrize("t", [100.0, 500.0, 900.0])
def test_with_the_weight_of_its_variance_the_guided_estimate_is_exact(t: float) -> None:
    """One given frame: by Bayes' rule the score of z given x_a is the score of z and that of x_a given z, which is
    normal around the estimate with a variance v. The paper takes v to be sigma^2 / alpha^2 / w_r; with the true v the
    guided estimate of the rest is E[x_b | z, x_a].
    """
    diffusion, denoiser, given, _ = setup("linear", count=50)
    alpha, sigma = diffusion.path.scalars(t)
    z = torch.randn(given.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    known = torch.zeros(given.shape, dtype=torch.bool)
    known[:, :, 0] = True
    seen = torch.where(known, 1.5, 0.0).double()
    # x and z are normal together; first what z says, then what z and frame 0 say.
    eye = torch.eye(FRAMES, dtype=torch.float64)
    gain = alpha * COVARIANCE @ torch.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * eye)
    left = COVARIANCE - gain @ (alpha * COVARIANCE)
    mean = z.flatten(1) @ gain.T
    exact = mean + (1.5 - mean[:, :1]) * (left[:, 0] / left[0, 0])
    weight = sigma**2 / alpha**2 / float(left[0, 0])

    def estimate(z: torch.Tensor, t: float) -> Denoised:
        times = torch.full((len(z),), t, dtype=torch.float64)
        return Denoised(diffusion.to_sample(denoiser(z, times, None), z, times))

    method = SteeringConfig(weight=weight).build(Held(seen, known))
    run = Run(None, None, tuple(z.shape), 1, diffusion.path)
    found = method.estimate(estimate, run)(z, t).sample.flatten(1)
    assert_close(found.float(), exact.float())  # the squares are summed in float32
