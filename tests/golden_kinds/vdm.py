"""Kinds of Video Diffusion Models: the 3D U-Net, and its diffusion process with the network that the layout says."""

from __future__ import annotations

from unittest.mock import patch

import torch
from torch import Tensor

from kinolab.contracts.conditions import Value
from kinolab.contracts.method import Denoise, Denoised, Run
from kinolab.denoisers import Conditions, Vdm
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.diffusion.samplers import ddpm
from kinolab.methods import Thresholding, ThresholdingConfig
from tests.golden_kinds import Golden, runs


@runs("VdmUnet3D")
def unet_3d(golden: Golden) -> dict[str, Tensor]:
    """lucidrains' Unet3D: plain, in focus on the present, and with the condition null and guided away from."""
    model = golden.load(focus=True)
    assert isinstance(model, Vdm)
    x, t = golden["x"], golden["time"].float()
    told = Conditions(pooled=golden["cond"] if "cond" in golden.tensors else None)
    focused = told.told(Conditions(focus=Value("vector", golden["focus"].float())))
    out, null = model(x, t, told), model(x, t, told.all_null(len(x)))
    return {
        "out": out,
        "out_focus": model(x, t, focused),
        "out_null": null,
        "out_scale2": null + 2 * (out - null),
        "time_rel_pos_bias": model.relative_bias(x.shape[2]),
    }


def settings(golden: Golden) -> tuple[Diffusion, ThresholdingConfig]:
    """The diffusion and the thresholding that a file's config asks for."""
    config = golden.config
    diffusion = DiffusionConfig(
        schedule="cosine", max_beta=0.9999, num_steps=config["timesteps"],
        loss="l1" if config["loss_type"] == "l1" else "mse",
    )  # fmt: skip
    kind, share = ("dynamic", config["dynamic_thres_percentile"]) if config["use_dynamic_thres"] else ("static", 0.9)
    return Diffusion(diffusion), ThresholdingConfig.model_validate({"kind": kind, "percentile": share})


@runs("VdmDiffusion", within=1e-5)
def diffusion(golden: Golden) -> dict[str, Tensor]:
    """lucidrains' GaussianDiffusion; every row is at a time of its own, so each is sampled by itself."""
    process, thresholds = settings(golden)

    def network(z: Tensor, t: Tensor, conditions: object) -> Tensor:
        return torch.einsum("oc,bcfhw->bofhw", golden["A"], z) + (t / 1000).view(-1, 1, 1, 1, 1)

    def denoise(z: Tensor, t: float) -> Denoised:
        times = torch.full((len(z),), t)
        return Denoised(process.to_sample(network(z, times, None), z, times))

    run = Run(None, None, tuple(golden["x0"].shape), 1, process.path)
    estimate = Thresholding(thresholds).estimate(denoise, run)
    every, t = torch.arange(golden.config["timesteps"], dtype=torch.float64), golden["t"]
    x_t = process.q_sample(golden["x0"], t, golden["noise"])
    rows = [_step(process, estimate, golden, row, int(time)) for row, time in enumerate(t)]
    return {
        "betas": process.path.posterior(every, every - 1).transition.float(),
        "x_t": x_t,
        "loss": process.loss(network, golden["x0"], None, t=t, noise=golden["noise"])["loss"].mean()[None],
        "mean": torch.cat([mean for mean, _ in rows]),
        "log_variance": process.path.posterior(t.double(), t - 1.0).variance.clamp(min=1e-20).log().float(),
        "p_sample": torch.cat([stepped for _, stepped in rows]),
    }


def _step(process: Diffusion, estimate: Denoise, golden: Golden, row: int, t: int) -> tuple[Tensor, Tensor]:
    """The posterior's mean of a row, and the row after one step with the stored noise."""
    here, times = slice(row, row + 1), torch.tensor([t, t - 1], dtype=torch.float64)
    z, noise = golden["x_t"][here], golden["step_noise"][here]
    q = process.path.posterior(times[:1], times[1:])
    mean = float(q.z) * z + float(q.sample) * estimate(z, float(t)).sample
    with patch.object(ddpm, "draw_noise", lambda *_: noise):
        return mean, ddpm.sample(estimate, z, times, path=process.path, config=SamplerConfig(name="ddpm"))
