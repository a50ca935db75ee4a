"""The kind of progressive distillation: a student's targets and losses, and its steps, by a linear teacher."""

from __future__ import annotations

import torch
from torch import Tensor

from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.diffusion.path import LOG_SNR, LogSnrPath
from kinolab.diffusion.progressive import Weight, as_prediction, distance, two_step_target
from kinolab.diffusion.samplers import SAMPLERS, Denoised
from tests.golden_kinds import Golden, runs

PREDICTIONS = {"eps": "noise", "x": "sample", "v": "v"}
LOSSES: dict[str, Weight] = {
    "loss_constant": "constant", "loss_snr": "snr", "loss_snr_trunc": "truncated", "loss_v_mse": "snr_plus_one"
}  # fmt: skip


def as_rounded() -> LogSnrPath:
    """The path with the end that the reference's float32 makes of a log SNR of -20: the angle there is so near a right
    one that its rounding moves alpha by 5e-4, by which a noise prediction's sample is divided."""
    b = torch.atan(torch.exp(torch.tensor(-10.0)))
    a = torch.atan(torch.exp(torch.tensor(10.0))) - b
    return LogSnrPath(low=float(-2 * torch.log(torch.tan((a + b).double()))))


def relative(name: str, ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the size of what is expected, where that is above 1: noise near the end is scaled
    up to thousands."""
    return float(((ours.double() - theirs.double()).abs() / theirs.double().abs().clamp(min=1.0)).max())


@runs("ProgressiveDistillation", within=1e-4, measure=relative)
def progressive(golden: Golden) -> dict[str, Tensor]:
    """dpm.py's training_losses with a teacher, on the rows' own steps, and steps of the student from pure noise."""
    config = golden.config
    assert (config["logsnr_min"], config["logsnr_max"]) == LOG_SNR
    N, path = config["num_steps"], PREDICTIONS[config["mean_type"]]
    process = Diffusion(DiffusionConfig(schedule="cosine_logsnr", prediction=path))

    def network(name: str, share: float, z: Tensor, t: Tensor) -> Tensor:
        told = torch.tanh(process.path.log_snr_half(t) / 5).view(-1, *[1] * (z.ndim - 1)).float()
        return torch.einsum("...c,oc->...o", z, golden[name]) + share * told * golden["bias"]

    def clean(name: str, share: float, z: Tensor, t: Tensor) -> Tensor:
        return process.to_sample(network(name, share, z, t), z, t)

    grid = process.path.times(2 * N, "trailing")
    first = 2 * (N - 1 - golden["i"].long())  # the student's step i goes from (i + 1) / N to i / N
    times = torch.stack([grid[first + k] for k in range(3)])
    t = times[0]
    z = process.q_sample(golden["x"], t, golden["eps"])
    target = two_step_target(process, lambda z, t: clean("teacher", 1.0, z, t), z, times)
    asked, predicted = as_prediction(process, target, z, t), network("student", 0.5, z, t)
    losses = {
        name: distance(process, predicted, asked, t, weight).flatten(1).mean(1) for name, weight in LOSSES.items()
    }

    def denoise(z: Tensor, time: float) -> Denoised:
        return Denoised(clean("student", 0.5, z, torch.full((len(z),), time, dtype=torch.float64)))

    steps = []
    for i in (N - 1, 1, 0):
        pair = process.path.times(N, "trailing")[N - 1 - i : N - i + 1]
        process.path = as_rounded() if i == N - 1 else LogSnrPath()
        take = SAMPLERS.get("ddim").sample
        steps.append(take(denoise, golden["eps"], pair, path=process.path, config=SamplerConfig()))
    velocity = Diffusion(DiffusionConfig(schedule="cosine_logsnr", prediction="v"))
    noise = Diffusion(DiffusionConfig(schedule="cosine_logsnr", prediction="noise"))
    return {
        "logsnr": 2 * process.path.log_snr_half(t).float(),
        "z": z,
        "x_target": target,
        "v_target": as_prediction(velocity, target, z, t),
        "eps_target": as_prediction(noise, target, z, t),
        "ddim_steps": torch.stack(steps),
        **losses,
    }
