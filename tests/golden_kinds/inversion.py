"""The kind of Tune-A-Video's inversion: a clip's latents on the way to its noise, and back by diffusers' DDIM."""

from __future__ import annotations

import torch
from torch import Tensor

from kinolab.contracts.method import Run
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.diffusion.run import wrapped_estimate
from kinolab.methods.inversion import invert
from tests.golden_kinds import Golden, runs


@runs("TavInversion")
def tune_a_video(golden: Golden) -> dict[str, Tensor]:
    """ddim_loop with the noise predicted at the time that each step goes to, and the way back from the last."""
    config = golden.config
    betas = (config["beta_start"], config["beta_end"])
    process = Diffusion(DiffusionConfig(schedule="scaled_linear", betas=betas))
    # Without set_alpha_to_one the last step ends at the schedule's first alpha, as our spacing of that name does.
    spacing = "leading" if config["set_alpha_to_one"] else "sd"
    sampler = SamplerConfig(name="ddim", steps=config["steps"], spacing=spacing)
    times, x0 = process.times(sampler), golden["x0"]

    def network(z: Tensor, t: Tensor, conditions: object) -> Tensor:
        bias = golden["bias"].view(1, -1, 1, 1, 1) * (t / 1000).view(-1, 1, 1, 1, 1)
        return torch.einsum("oc,bcfhw->bofhw", golden["A"], z) + bias

    run = Run(network, None, tuple(x0.shape), config["steps"], process.path, times=times)
    inverted = [x0, *invert(wrapped_estimate(process, run), x0, times, process)]
    back: list[Tensor] = []
    process.sample(network, inverted[-1], None, sampler=sampler, callback=lambda step, steps, z, x: back.append(z))
    return {
        "alphas_cumprod": process.path.alpha_sigma(torch.arange(1000.0))[0].square().float(),
        "timesteps": times[:-1].long(),
        "inverted": torch.stack(inverted),
        "sampled": torch.stack(back),
    }
