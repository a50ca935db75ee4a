"""Parity with the diffusion of DiT and Latte: linear betas, learned-range variance, respacing, DDIM, loss terms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.diffusion.path import DiscretePath, linear_betas
from kinolab.diffusion.samplers import SAMPLERS, Denoised
from kinolab.diffusion.variational import bound, mean_and_log_variance
from tests.closeness import assert_close

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(params=[1000, 50])
def golden(request: pytest.FixtureRequest) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"gaussian_diffusion_{request.param}.safetensors")


@pytest.fixture
def diffusion() -> Diffusion:
    return Diffusion(DiffusionConfig(learned_variance=True, loss="mse_vb"))


def original_times(golden: dict[str, Tensor]) -> Tensor:
    return golden["timestep_map"][golden["t"]]


def assert_near(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Largest difference of each sample within `tolerance` of its largest value (at least 1)."""
    scale = expected.abs().flatten(1).amax(1).clamp(min=1.0) if expected.ndim > 1 else expected.abs().clamp(min=1.0)
    error = (actual - expected).abs()
    error = error.flatten(1).amax(1) if expected.ndim > 1 else error
    assert (error / scale).max() < tolerance, (error / scale).tolist()


def test_times_are_the_reference_respacing(golden: dict[str, Tensor], diffusion: Diffusion) -> None:
    kept = golden["timestep_map"]
    times = diffusion.path.times(len(kept), "linspace")
    assert times[:-1].flip(0).tolist() == kept.tolist()
    assert times[-1] == diffusion.path.clean_time


def test_betas(golden: dict[str, Tensor], diffusion: Diffusion) -> None:
    kept = golden["timestep_map"].double()
    before = torch.cat([kept.new_full((1,), -1.0), kept[:-1]])
    assert_close(diffusion.path.posterior(kept, before).transition, golden["betas"], within=1e-09)
    if len(kept) == 1000:
        assert_close(linear_betas(1000), golden["betas"], within=1e-12)


def test_q_sample(golden: dict[str, Tensor], diffusion: Diffusion) -> None:
    assert_near(diffusion.q_sample(golden["x0"], original_times(golden), golden["noise"]), golden["x_t"])


def test_clean_estimate(golden: dict[str, Tensor], diffusion: Diffusion) -> None:
    prediction, _ = diffusion.split(golden["model_out"], 4)
    assert_near(diffusion.to_sample(prediction, golden["x"], original_times(golden)), golden["pred_x0"])


def test_posterior_mean_and_learned_log_variance(golden: dict[str, Tensor], diffusion: Diffusion) -> None:
    t, x = original_times(golden), golden["x"]
    prediction, values = diffusion.split(golden["model_out"], 4)
    assert values is not None and isinstance(diffusion.path, DiscretePath)
    sample = diffusion.to_sample(prediction, x, t)
    mean, log_variance = mean_and_log_variance(diffusion.path, x, sample, values, t, golden["timestep_map"].double())
    assert_near(mean, golden["mean"])
    assert_near(log_variance, golden["log_variance"])


def test_one_ddim_step(golden: dict[str, Tensor], diffusion: Diffusion) -> None:
    kept = golden["timestep_map"].double()
    prediction, _ = diffusion.split(golden["model_out"], 4)
    for i, index in enumerate(golden["t"].tolist()):
        pair = torch.stack([kept[index], kept[index - 1] if index else torch.tensor(-1.0).double()])

        def denoise(z: Tensor, t: float, row: int = i) -> Denoised:
            return Denoised(diffusion.to_sample(prediction[row : row + 1], z, torch.tensor([t])))

        x, expected = golden["x"][i : i + 1], golden["ddim_next"][i : i + 1]
        actual = SAMPLERS.get("ddim").sample(denoise, x, pair, path=diffusion.path, config=SamplerConfig(eta=0.0))
        assert_near(actual, expected)


def test_loss_terms(golden: dict[str, Tensor], diffusion: Diffusion) -> None:
    t, x0, noise = original_times(golden), golden["x0"], golden["noise"]
    parts = diffusion.loss(lambda z, t, c: golden["model_out"], x0, None, t=t, noise=noise)
    assert_near(parts["mse"], golden["loss_mse"])
    # The respaced bound is between respaced neighbours: it takes the chain of kept timesteps.
    prediction, values = diffusion.split(golden["model_out"], 4)
    assert values is not None and isinstance(diffusion.path, DiscretePath)
    z_t = diffusion.q_sample(x0, t, noise)
    vb = bound(diffusion.path, x0, z_t, diffusion.to_sample(prediction, z_t, t), values, t, golden["timestep_map"])
    assert_near(vb, golden["loss_vb"])
    if len(golden["betas"]) == 1000:
        assert_near(parts["vb"], golden["loss_vb"])
        assert_near(parts["loss"], golden["loss"])
