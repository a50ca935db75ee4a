"""Langevin corrector steps: their equation, what they settle at, and which samplers take them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab.contracts.method import Denoised, Run
from kinolab.diffusion import SAMPLERS, Diffusion, DiffusionConfig, SamplerConfig
from kinolab.errors import InputError
from kinolab.methods import Held, Langevin, LangevinConfig, Method, SteeringConfig, StepCache, StepCacheConfig
from tests.closeness import assert_close, assert_within
from tests.methods.test_reconstruction import MEAN, Nothing, setup

COSINE = Diffusion(DiffusionConfig(schedule="cosine"))


def running(seed: int = 0) -> Run:
    return Run(None, None, (1, 1, 1, 1, 1), 10, COSINE.path, generator=torch.Generator().manual_seed(seed))


def normal(z: Tensor, t: float) -> Denoised:
    """The exact estimate where x ~ N(0, 1): z ~ N(0, 1) at every time, x = alpha z."""
    return Denoised(COSINE.path.scalars(t)[0] * z)


def test_one_step_is_the_papers_equation() -> None:
    z, s = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64), 700.0
    correct = Langevin(LangevinConfig(size=0.3)).corrected(lambda z, s: z, normal, running())
    _, sigma = COSINE.path.scalars(s)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0), dtype=z.dtype)
    e = sigma * z  # the noise that is in z, as expected
    assert_close(correct(z, s), z - 0.3 / 2 * sigma * e + 0.3**0.5 * sigma * noise)
    assert torch.equal(correct(z, -1.0), z), "the clean sample is left alone"


@pytest.mark.parametrize("size", [0.1, 0.5])
def test_many_steps_settle_where_the_equation_says(size: float) -> None:
    """z <- (1 - d/2) z + sqrt(d) e, d = size * sigma^2, has the variance 1 / (1 - d/4): 1 for small steps."""
    s = 500.0
    correct = Langevin(LangevinConfig(size=size, steps=200)).corrected(lambda z, s: z, normal, running())
    z = correct(torch.full((1, 1, 1, 100, 100), 3.0, dtype=torch.float64), s)
    d = size * COSINE.path.scalars(s)[1] ** 2
    left = 3.0 * (1 - d / 2) ** 200
    assert_within(z.mean(), left, 0.04, "of the standard deviation")
    assert_within(z.var(), 1 / (1 - d / 4), 0.06, "of the variance")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddpm", "ddim", "euler", "heun"])
def test_it_mends_what_reconstruction_guidance_leaves_wrong(name: Any) -> None:
    """On the Gaussian whose conditional mean is known, with the paper's step size."""
    diffusion, denoiser, given, known = setup("linear", count=600)
    conditions: Any = Nothing()
    errors = []
    for methods in ([], [Langevin(LangevinConfig(size=0.1, steps=2))]):
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(given.shape, generator=generator, dtype=torch.float64)
        wrapped: list[Method] = [SteeringConfig(weight=3.0).build(Held(given, known)), *methods]
        config = SamplerConfig(name=name, steps=40)
        made = diffusion.sample(
            denoiser, noise, conditions, sampler=config, generator=generator, methods=wrapped
        ).flatten(1)
        errors.append(float((made[:, 2:].mean(0) - MEAN).abs().mean()))
    assert errors[1] < 0.75 * errors[0], errors


def test_samplers_with_a_memory_and_caches_are_refused() -> None:
    assert {name for name in SAMPLERS if SAMPLERS.get(name).corrected} == {
        "ddpm",
        "ddim",
        "euler",
        "heun",
        "stochastic",
    }
    diffusion, denoiser, given, _ = setup("linear", count=1)
    conditions: Any = Nothing()
    with pytest.raises(InputError, match=r"Langevin changes z between steps, which dpmpp_2m does not allow: use ddpm"):
        sampler = SamplerConfig(name="dpmpp_2m", steps=4)
        diffusion.sample(denoiser, given, conditions, sampler=sampler, methods=[Langevin()])
    with pytest.raises(InputError, match="leave the cache out"):
        diffusion.sample(denoiser, given, conditions, methods=[Langevin(), StepCache(StepCacheConfig())])
