"""Step by step against the schedulers of diffusers, with one fixed fake model, where both define the same thing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab.denoisers.base import Conditions
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from tests.closeness import assert_close

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # diffusers' own
]
LINEAR = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 2e-2, "beta_schedule": "linear"}
KINDS = {"noise": "epsilon", "sample": "sample", "v": "v_prediction"}
SHAPE = (2, 3, 2, 4, 4)


@pytest.fixture(scope="module")
def schedulers() -> Any:
    return pytest.importorskip("diffusers.schedulers")


def fake(z: Tensor, t: Tensor, conditions: object = None) -> Tensor:
    """Smooth in z and t and of about unit size, so that no prediction type blows up."""
    return torch.tanh(0.6 * z + 0.3 * torch.cos(t.float().reshape(-1, 1, 1, 1, 1) / 170.0))


def ours(config: DiffusionConfig, sampler: SamplerConfig, noise: Tensor, seed: int) -> list[Tensor]:
    states: list[Tensor] = []
    Diffusion(config).sample(
        fake,
        noise,
        Conditions(),
        sampler=sampler,
        generator=torch.Generator().manual_seed(seed),
        callback=lambda step, steps, z, denoised: states.append(z),
    )
    return states


def theirs(scheduler: Any, noise: Tensor, **step: Any) -> list[Tensor]:
    z, states = noise, []
    for t in scheduler.timesteps:
        z = scheduler.step(fake(z, t.expand(z.shape[0])), t, z, return_dict=False, **step)[0]
        states.append(z)
    return states


def assert_same(actual: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    """The same state after every step, relative to its size: dividing by alpha 0.006 costs float32 digits at first."""
    assert len(actual) == len(expected)
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert float((a - b).abs().max() / b.abs().max().clamp(min=1.0)) < tolerance, f"step {i + 1}"


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("prediction", KINDS)
@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm(schedulers: Any, noise: Tensor, prediction: str, variance: str) -> None:
    reference = schedulers.DDPMScheduler(
        **LINEAR,
        prediction_type=KINDS[prediction],
        clip_sample=False,
        variance_type=f"fixed_{variance}",
        timestep_spacing="leading",
    )
    reference.set_timesteps(50)
    config = DiffusionConfig.model_validate({"prediction": prediction})
    sampler = SamplerConfig.model_validate({"name": "ddpm", "steps": 50, "spacing": "leading", "variance": variance})
    expected = theirs(reference, noise, generator=torch.Generator().manual_seed(7))
    assert_same(ours(config, sampler, noise, 7), expected, 3e-5)


@pytest.mark.slow
@pytest.mark.parametrize("prediction", KINDS)
@pytest.mark.parametrize("eta", [0.0, 0.6])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim(schedulers: Any, noise: Tensor, prediction: str, eta: float, spacing: str) -> None:
    reference = schedulers.DDIMScheduler(
        **LINEAR,
        prediction_type=KINDS[prediction],
        clip_sample=False,
        timestep_spacing=spacing,
    )
    reference.set_timesteps(50)
    config = DiffusionConfig.model_validate({"prediction": prediction})
    sampler = SamplerConfig.model_validate({"name": "ddim", "steps": 50, "spacing": spacing, "eta": eta})
    expected = theirs(reference, noise, eta=eta, generator=torch.Generator().manual_seed(7))
    assert_same(ours(config, sampler, noise, 7), expected, 3e-5)


def test_ddim_at_zero_terminal_snr(schedulers: Any, noise: Tensor) -> None:
    reference = schedulers.DDIMScheduler(
        **LINEAR,
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
    reference.set_timesteps(50)
    config = DiffusionConfig(prediction="v", zero_terminal_snr=True)
    assert_same(ours(config, SamplerConfig(name="ddim", steps=50), noise, 7), theirs(reference, noise), 3e-5)


@pytest.mark.parametrize("prediction", KINDS)
@pytest.mark.parametrize("steps", [10, 20])
def test_dpm_solver_2m(schedulers: Any, noise: Tensor, prediction: str, steps: int) -> None:
    reference = schedulers.DPMSolverMultistepScheduler(
        **LINEAR,
        prediction_type=KINDS[prediction],
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        timestep_spacing="trailing",
    )
    reference.set_timesteps(steps)
    config = DiffusionConfig.model_validate({"prediction": prediction})
    sampler = SamplerConfig(name="dpmpp_2m", steps=steps, spacing="trailing")
    assert_same(ours(config, sampler, noise, 7), theirs(reference, noise), 1e-4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_as_stable_diffusion_3_samples(schedulers: Any, noise: Tensor, shift: float) -> None:
    reference = schedulers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    reference.set_timesteps(28)
    diffusion = Diffusion(DiffusionConfig(schedule="flow", prediction="flow", time_shift=shift))
    sampler = SamplerConfig(name="euler", steps=28, spacing="linspace")
    assert_close(diffusion.times(sampler).float() / 1000, reference.sigmas)
    assert_same(ours(diffusion.config, sampler, noise, 7), theirs(reference, noise))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_euler(schedulers: Any, noise: Tensor, shift: float) -> None:
    reference = schedulers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    steps = 20
    reference.set_timesteps(sigmas=[1.0 - i / steps for i in range(steps)])
    config = DiffusionConfig(schedule="flow", prediction="flow", time_shift=shift)
    assert_same(ours(config, SamplerConfig(name="euler", steps=steps), noise, 7), theirs(reference, noise))
