"""The diffusion of Video Diffusion Models gives the numbers of its most used public code (golden/vdm_diffusion_*)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from kinolab.contracts.method import Denoised
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.diffusion.samplers import ddpm
from kinolab.methods import Thresholding, ThresholdingConfig
from tests.closeness import assert_close

GOLDEN = Path(__file__).parents[1] / "golden"
WITHIN = 1e-5


class Golden:
    """A stored case: its tensors, and the diffusion that its config asks for."""

    def __init__(self, name: str) -> None:
        path = GOLDEN / f"{name}.safetensors"
        with safe_open(path, "pt") as file:
            self.config: dict[str, Any] = json.loads(file.metadata()["config"])
        self.stored = load_file(path)
        self.diffusion = Diffusion(
            DiffusionConfig(
                schedule="cosine",
                max_beta=0.9999,
                num_steps=self.config["timesteps"],
                loss="l1" if self.config["loss_type"] == "l1" else "mse",
            )
        )
        dynamic = self.config["use_dynamic_thres"]
        self.thresholding = ThresholdingConfig(
            kind="dynamic" if dynamic else "static", percentile=self.config["dynamic_thres_percentile"]
        )

    def __getitem__(self, name: str) -> Tensor:
        return self.stored[name]

    def denoiser(self, z: Tensor, t: Tensor, conditions: object) -> Tensor:
        """The noise that the stored case predicts."""
        return torch.einsum("oc,bcfhw->bofhw", self["A"], z) + (t / 1000).view(-1, 1, 1, 1, 1)


@pytest.fixture(params=["vdm_diffusion_l1", "vdm_diffusion_dynamic"])
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


def test_betas(golden: Golden) -> None:
    times = torch.arange(golden.config["timesteps"], dtype=torch.float64)
    betas = golden.diffusion.path.posterior(times, times - 1).transition
    assert_close(betas.float(), golden["betas"], within=WITHIN)
    standard = Diffusion(DiffusionConfig(schedule="cosine", num_steps=golden.config["timesteps"]))
    assert float(standard.path.posterior(times[-1:], times[-2:-1]).transition) == pytest.approx(0.999)


def test_noised_samples_and_loss(golden: Golden) -> None:
    x0, noise, t = golden["x0"], golden["noise"], golden["t"]
    assert_close(golden.diffusion.q_sample(x0, t, noise), golden["x_t"], within=WITHIN)
    parts = golden.diffusion.loss(golden.denoiser, x0, None, t=t, noise=noise)
    assert_close(parts["loss"].mean(), golden["loss"][0], within=WITHIN)
    assert ("l1" in parts) == (golden.config["loss_type"] == "l1")


def test_mean_variance_and_one_step(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is at its own time, so each is sampled by itself; the step's noise is the stored one."""
    diffusion, path = golden.diffusion, golden.diffusion.path
    for row, t in enumerate(golden["t"].tolist()):
        times, here = torch.tensor([t, t - 1], dtype=torch.float64), slice(row, row + 1)

        def denoise(z: Tensor, t: float) -> Denoised:
            times = torch.full((1,), t)
            return Denoised(diffusion.to_sample(golden.denoiser(z, times, None), z, times))

        estimate = Thresholding(golden.thresholding).estimate(denoise, None)  # type: ignore[arg-type]
        q = path.posterior(times[:1], times[1:])
        z = golden["x_t"][here]
        mean = float(q.z) * z + float(q.sample) * estimate(z, float(t)).sample
        assert_close(mean, golden["mean"][here], within=WITHIN, what=f"mean at {t}")
        if t:
            assert_close(q.variance.log().float(), golden["log_variance"][here], within=WITHIN)
        monkeypatch.setattr(ddpm, "draw_noise", lambda z, _, row=row: golden["step_noise"][row : row + 1])
        stepped = ddpm.sample(estimate, z, times, path=path, config=SamplerConfig(name="ddpm"))
        assert_close(stepped, golden["p_sample"][here], within=WITHIN, what=f"step at {t}")
