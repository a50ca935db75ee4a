"""DDIM (Song et al. 2021), for any Gaussian path and any eta."""

from __future__ import annotations

import torch
from torch import Tensor

from kinolab.diffusion.conversions import sample_to_noise
from kinolab.diffusion.path import NoisePath
from kinolab.diffusion.samplers.base import AfterStep, Denoise, Sampler, SamplerConfig, continued, draw_noise


def sample(
    denoise: Denoise,
    z: Tensor,
    times: Tensor,
    *,
    path: NoisePath,
    config: SamplerConfig,
    generator: torch.Generator | None = None,
    callback: AfterStep | None = None,
) -> Tensor:
    """Eq. 12 with the noise level of eq. 16: z_s = alpha_s x + sqrt(sigma_s^2 - level^2) e + level * new noise."""
    steps = len(times) - 1
    for i in range(steps):
        t, s = float(times[i]), float(times[i + 1])
        alpha_t, sigma_t = path.scalars(t)
        alpha_s, sigma_s = path.scalars(s)
        found = denoise(z, t)
        x = found.sample
        level = config.eta * float(path.posterior(t, s).variance) ** 0.5
        direction = max(sigma_s**2 - level**2, 0.0) ** 0.5
        e = sample_to_noise(x, z, alpha_t, sigma_t) if found.noise is None else found.noise
        z = alpha_s * x + direction * e
        if level > 0:
            z = z + level * draw_noise(z, generator)
        z = continued(callback, i + 1, steps, z, x)
    return z


class Ddim(Sampler):
    """DDIM: deterministic, or with a share eta of ddpm's noise."""

    fields = ("eta",)
    corrected = keeps_noise = True
    sample = staticmethod(sample)
