"""Samplers against the closed form: for a Gaussian target N(mu, s^2) the best denoiser is known, and so is the flow.

E[x | z] = mu + s^2 alpha / (alpha^2 s^2 + sigma^2) * (z - alpha mu), and along the probability-flow ODE
(z - alpha mu) / sqrt(alpha^2 s^2 + sigma^2) is constant.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab.denoisers.base import Conditions
from kinolab.diffusion import SAMPLERS, Denoised, Diffusion, DiffusionConfig, NonFiniteError, SamplerConfig
from kinolab.diffusion.edm import EdmConfig
from kinolab.diffusion.path import FlowPath, NoisePath
from kinolab.diffusion.samplers import Denoise
from kinolab.errors import InputError
from tests.closeness import assert_close

pytestmark = pytest.mark.slow  # many short ones, which take long together

MU, S = 0.7, 0.4
CONFIGS = {
    "linear-noise": DiffusionConfig(),
    "linear-learned": DiffusionConfig(learned_variance=True, loss="mse_vb"),
    "cosine-v": DiffusionConfig(schedule="cosine", prediction="v"),
    "zero-v": DiffusionConfig(zero_terminal_snr=True, prediction="v"),
    "zero-sample": DiffusionConfig(schedule="cosine", zero_terminal_snr=True, prediction="sample"),
    "flow": DiffusionConfig(schedule="flow", prediction="flow"),
    "flow-v-shifted": DiffusionConfig(schedule="flow", prediction="v", time_shift=3.0),
    "edm-f": DiffusionConfig(schedule="edm", prediction="edm", edm=EdmConfig(sigma_max=20, sigma_min=0.05)),
}


def best(path: NoisePath, z: Tensor, t: float) -> Tensor:
    """E[x | z] at time t."""
    alpha, sigma = path.scalars(t)
    return MU + S**2 * alpha / (alpha**2 * S**2 + sigma**2) * (z - alpha * MU)


def spread(path: NoisePath, t: float) -> float:
    alpha, sigma = path.scalars(t)
    return float((alpha**2 * S**2 + sigma**2) ** 0.5)


def denoiser_for(diffusion: Diffusion, *, few_steps: bool = False) -> Any:
    """The best denoiser, giving its answer as whatever the config predicts; the learned variance is the smaller one.

    few_steps: the consistency function, which samplers of few-step models take, in its place.
    """

    def denoiser(z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        x = best(diffusion.path, z, float(t[0]))
        if few_steps:
            time = float(t[0])
            x = MU + S / spread(diffusion.path, time) * (z - diffusion.path.scalars(time)[0] * MU)
        alpha, sigma = diffusion.path.scalars(float(t[0]))
        noise = (z - alpha * x) / sigma
        output = diffusion.target(x, noise, t)
        return torch.cat([output, -torch.ones_like(output)], 1) if diffusion.config.learned_variance else output

    return denoiser


@pytest.mark.parametrize(("config", "name"), list(itertools.product(CONFIGS, SAMPLERS)))
def test_every_sampler_reproduces_a_gaussian_on_every_path(config: str, name: str) -> None:
    diffusion = Diffusion(CONFIGS[config])
    noise = torch.randn(4000, 1, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    noise = (noise - noise.mean()) / noise.std()
    sampler = SamplerConfig(name=name, steps=200 if name in ("ddpm", "stochastic") else 60)
    denoiser = denoiser_for(diffusion, few_steps=SAMPLERS.get(name).few_steps)
    z = diffusion.sample(denoiser, noise, Conditions(), sampler=sampler, generator=torch.Generator().manual_seed(1))
    assert float(z.mean()) == pytest.approx(MU, abs=0.025)
    assert float(z.std()) == pytest.approx(S, rel=0.06)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_keeps_the_target_at_any_eta(eta: float) -> None:
    diffusion = Diffusion(CONFIGS["cosine-v"])
    z = diffusion.sample(
        denoiser_for(diffusion),
        (8000, 1, 1, 1, 1),
        Conditions(),
        sampler=SamplerConfig(name="ddim", eta=eta, steps=250),
        generator=torch.Generator().manual_seed(2),
    )
    assert float(z.mean()) == pytest.approx(MU, abs=0.02)
    assert float(z.std()) == pytest.approx(S, rel=0.04)


def error_at(name: str, steps: int, *, start: float = 950.0, end: float = 50.0) -> float:
    """Distance to the exact solution of the ODE between two times of rectified flow."""
    path = FlowPath()
    z = torch.tensor([-1.3, 0.2, 1.1], dtype=torch.float64)
    times = torch.linspace(start, end, steps + 1, dtype=torch.float64)

    def denoise(z: Tensor, t: float) -> Denoised:
        return Denoised(best(path, z, t))

    actual = SAMPLERS.get(name).sample(denoise, z, times, path=path, config=SamplerConfig(name=name))
    alpha_start, alpha_end = path.scalars(start)[0], path.scalars(end)[0]
    exact = alpha_end * MU + spread(path, end) / spread(path, start) * (z - alpha_start * MU)
    return float((actual - exact).abs().max())


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("euler", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_deterministic_samplers_converge_at_their_order(name: str, order: int) -> None:
    ratio = error_at(name, 80) / error_at(name, 160)
    assert ratio == pytest.approx(2**order, rel=0.15)


@pytest.mark.parametrize("config", ["linear-noise", "cosine-v", "zero-v", "flow"])
@pytest.mark.parametrize(("name", "bound"), [("ddim", 0.02), ("euler", 0.02), ("heun", 0.0005), ("dpmpp_2m", 0.001)])
def test_whole_trajectories_end_at_the_exact_solution(config: str, name: str, bound: float) -> None:
    diffusion = Diffusion(CONFIGS[config])
    noise = torch.tensor([-1.3, 0.2, 1.1], dtype=torch.float64).reshape(3, 1, 1, 1, 1)
    sampler = SamplerConfig(name=name, steps=100)
    actual = diffusion.sample(denoiser_for(diffusion), noise, Conditions(), sampler=sampler)
    start = float(diffusion.times(sampler)[0])
    exact = MU + S / spread(diffusion.path, start) * (noise - diffusion.path.scalars(start)[0] * MU)
    assert float((actual - exact).abs().max()) < bound


def test_euler_is_ddim_without_noise() -> None:
    """In rectified-flow coordinates an Euler step moves along fixed sample and noise, as DDIM does."""
    diffusion = Diffusion(CONFIGS["linear-noise"])
    noise = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    results = [
        diffusion.sample(denoiser_for(diffusion), noise, Conditions(), sampler=SamplerConfig(name=name, steps=20))
        for name in ("ddim", "euler")
    ]
    assert_close(results[0], results[1], within=1e-09)


def test_ddpm_equals_ddim_at_eta_one() -> None:
    diffusion = Diffusion(CONFIGS["cosine-v"])
    results = [
        diffusion.sample(
            denoiser_for(diffusion),
            (2, 1, 2, 2, 2),
            Conditions(),
            sampler=sampler,
            generator=torch.Generator().manual_seed(4),
        )
        for sampler in (SamplerConfig(name="ddpm", steps=30), SamplerConfig(name="ddim", eta=1.0, steps=30))
    ]
    assert_close(results[0], results[1], within=0.001)


def test_learned_variance_is_used_between_its_bounds() -> None:
    """One DDPM step from the same noise: the deviation is the small one at -1 and the large one at 1."""
    path = Diffusion(CONFIGS["linear-learned"]).path
    times = torch.tensor([700.0, 500.0], dtype=torch.float64)
    z = torch.zeros(1, 1, 1, 1, 4)

    def step(variance: float | None, choice: str) -> Tensor:
        learned = None if variance is None else torch.full_like(z, variance)
        config = SamplerConfig(name="ddpm", variance=choice)
        denoise: Denoise = lambda z, t: Denoised(torch.zeros_like(z), learned)  # noqa: E731
        source = torch.Generator().manual_seed(0)
        return SAMPLERS.get("ddpm").sample(denoise, z, times, path=path, config=config, generator=source)

    assert_close(step(-1.0, "auto"), step(None, "small"))
    assert_close(step(1.0, "learned"), step(None, "large"))
    with pytest.raises(InputError, match="predicts its variance"):
        step(None, "learned")


def test_callback_counts_steps_and_the_last_state_is_the_result() -> None:
    diffusion = Diffusion(CONFIGS["flow"])
    for name in SAMPLERS:
        seen: list[tuple[int, int]] = []
        states: list[Tensor] = []

        def callback(
            step: int, steps: int, z: Tensor, denoised: Tensor, seen: Any = seen, states: Any = states
        ) -> None:
            seen.append((step, steps))
            states.append(z)

        result = diffusion.sample(
            denoiser_for(diffusion),
            (1, 1, 1, 2, 2),
            Conditions(),
            sampler=SamplerConfig(name=name, steps=4),
            generator=torch.Generator().manual_seed(0),
            callback=callback,
        )
        assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
        assert torch.equal(states[-1], result)


def test_same_generator_gives_the_same_sample() -> None:
    diffusion = Diffusion(CONFIGS["linear-noise"])
    for name in SAMPLERS:
        sampler = SamplerConfig(name=name, steps=5)
        first, again, other = (
            diffusion.sample(
                denoiser_for(diffusion),
                (2, 1, 1, 2, 2),
                Conditions(),
                sampler=sampler,
                generator=torch.Generator().manual_seed(seed),
            )
            for seed in (5, 5, 6)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_nan_names_the_step_and_a_way_out() -> None:
    diffusion = Diffusion(CONFIGS["flow"])

    def denoiser(z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        return torch.full_like(z, torch.nan) if float(t[0]) < 600 else torch.zeros_like(z)

    with pytest.raises(NonFiniteError, match=r"step 3 of 4 \(t = 500\).*float32") as caught:
        diffusion.sample(denoiser, (1, 1, 1, 2, 2), Conditions(), sampler=SamplerConfig(name="euler", steps=4))
    assert isinstance(caught.value, FloatingPointError)


def test_arithmetic_stays_in_float32_under_autocast() -> None:
    diffusion = Diffusion(CONFIGS["flow"])
    seen = []

    def denoiser(z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        seen.append((z.dtype, t.dtype))
        return torch.einsum("bcthw,dc->bdthw", z, torch.eye(2))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = diffusion.sample(denoiser, (1, 2, 1, 2, 2), Conditions(), sampler=SamplerConfig(name="heun", steps=3))
        losses = diffusion.loss(denoiser, torch.randn(2, 2, 1, 2, 2), Conditions())
    assert z.dtype == losses["loss"].dtype == torch.float32
    assert set(seen) == {(torch.float32, torch.float32)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "euler", "eta": 0.5}, "ddim sampler only"),
        ({"name": "ddim", "variance": "large"}, "ddpm sampler only"),
        ({"steps": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_a_sampler_would_ignore_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplerConfig(**values)
