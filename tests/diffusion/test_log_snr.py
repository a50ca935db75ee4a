"""The cosine log-SNR schedule in continuous time: its equations in float64, its times, and sampling on it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kinolab.config import load_config
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.diffusion.path import LogSnrPath
from kinolab.diffusion.samplers.churn import ChurnConfig
from kinolab.errors import InputError
from tests.closeness import assert_close, assert_same

PATH = LogSnrPath()
PREDICTIONS = ("v", "sample", "noise")


def test_log_snr_is_the_published_function_of_time() -> None:
    t = torch.linspace(1e-3, 1, 500, dtype=torch.float64)
    b = math.atan(math.exp(-10))
    a = math.atan(math.exp(10)) - b
    alpha, sigma = PATH.alpha_sigma(t * 1000)
    expected = -2 * torch.log(torch.tan(a * t + b))
    assert_close(2 * PATH.log_snr_half(t * 1000), expected)
    assert_close(alpha, torch.sigmoid(expected).sqrt())
    assert_close(sigma, torch.sigmoid(-expected).sqrt())
    assert float(2 * PATH.log_snr_half(1000.0)) == pytest.approx(-20, rel=1e-9)
    assert float(2 * PATH.log_snr_half(1e-12)) == pytest.approx(20, rel=1e-9)
    assert float(2 * PATH.log_snr_half(500.0)) == pytest.approx(0, abs=1e-9)


def test_other_ends_of_the_log_snr() -> None:
    path = LogSnrPath(-6.0, 9.0)
    assert float(2 * path.log_snr_half(1000.0)) == pytest.approx(-6, rel=1e-9)
    assert float(2 * path.log_snr_half(1e-12)) == pytest.approx(9, rel=1e-9)
    with pytest.raises(InputError, match="least below the most"):
        LogSnrPath(3.0, 3.0)


def test_times_of_samplers_are_nested_and_end_at_the_clean_sample() -> None:
    assert_same(PATH.times(8)[::2], PATH.times(4))
    assert PATH.times(4).tolist() == [1000, 750, 500, 250, 0]
    linspace = PATH.times(3, "linspace")
    assert linspace[0] == 1000 and linspace[-2] == 1 and linspace[-1] == 0
    for spacing in ("leading", "sd"):
        with pytest.raises(InputError, match="never visits t = 1"):
            PATH.times(4, spacing)
    with pytest.raises(InputError, match="at least 1 step"):
        PATH.times(0)
    with pytest.raises(InputError, match="from 0 to 1000"):
        PATH.scalars(1001.0)


def test_a_level_is_reached_at_its_time() -> None:
    for level in (1e-3, 1.0, 40.0, 1e5):
        alpha, sigma = PATH.scalars(PATH.at_level(level))
        assert sigma / alpha == pytest.approx(level, rel=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_predictions_stand_for_the_sample_and_the_noise(prediction: str) -> None:
    process = Diffusion(DiffusionConfig(schedule="cosine_logsnr", prediction=prediction))
    z0, noise = (torch.randn(3, 2, 1, 2, 2, dtype=torch.float64) for _ in range(2))
    t = torch.tensor([200.0, 500.0, 800.0])
    z, target = process.q_sample(z0, t, noise), process.target(z0, noise, t)
    assert_close(process.to_sample(target, z, t), z0, within=1e-9)
    assert_close(process.to_noise(target, z, t), noise, within=1e-9)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "euler", "heun", "ddpm"])
def test_samplers_find_a_point(prediction: str, name: str) -> None:
    """Where all data is one point, the optimal denoiser knows it, and every sampler ends there."""
    process = Diffusion(DiffusionConfig(schedule="cosine_logsnr", prediction=prediction))
    point = torch.linspace(-1, 1, 8, dtype=torch.float64).view(1, 2, 1, 2, 2)

    def denoiser(z: Tensor, t: Tensor, conditions: object) -> Tensor:
        alpha, sigma = process.coefficients(t, z)
        return process.target(point.expand_as(z), (z - alpha * point) / sigma, t)

    noise = torch.randn(4, 2, 1, 2, 2, dtype=torch.float64)
    found = process.sample(denoiser, noise, None, sampler=SamplerConfig(name=name, steps=6))
    assert_close(found, point.expand_as(found), within=1e-7)


def test_churn_passes_the_noisy_end() -> None:
    process = Diffusion(DiffusionConfig(schedule="cosine_logsnr", prediction="v"))
    sampler = SamplerConfig(name="euler", steps=4, churn=ChurnConfig(amount=1.0))
    found = process.sample(lambda z, t, c: torch.zeros_like(z), (1, 1, 1, 2, 2), None, sampler=sampler)
    assert torch.isfinite(found).all()


def test_training_times_are_uniform_and_never_clean() -> None:
    process = Diffusion(DiffusionConfig(schedule="cosine_logsnr", prediction="v", stratified=True))
    times = process.draw_times(1000, torch.Generator().manual_seed(0)).double().sort().values
    assert_close(times, (torch.arange(1000, dtype=torch.float64) + 0.5), within=0.01)
    assert times.min() > 0 and PATH.scalars(float(times.min()))[1] > 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"learned_variance": True, "loss": "mse_vb"}, "continuous"),
        ({"num_steps": 50}, "continuous"),
        ({"zero_terminal_snr": True}, "continuous"),
        ({"time_shift": 3.0}, "flow schedule"),
    ],
)
def test_settings_of_other_schedules_are_refused(more: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_config(DiffusionConfig, {"schedule": "cosine_logsnr", "prediction": "v", **more}, name="diffusion")
