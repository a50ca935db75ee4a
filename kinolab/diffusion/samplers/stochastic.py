"""The stochastic sampler of distilled models (Ho et al. 2022, Imagen Video, section 2.7).

A student's small faults add up along its few steps. So each step goes twice as far as the next one and comes back by
noise, which hides them.
"""

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
    """A step of DDIM to the time after the next one, and noise back to the next; the last step is plain DDIM.

    Going back is the path's own z_t = (alpha_t / alpha_s) z_s + noise, for s < t.
    """
    steps = len(times) - 1
    for i in range(steps):
        t, next_time, s = float(times[i]), float(times[i + 1]), float(times[min(i + 2, steps)])
        alpha, sigma = path.scalars(t)
        alpha_s, sigma_s = path.scalars(s)
        found = denoise(z, t)
        x = found.sample
        e = sample_to_noise(x, z, alpha, sigma) if found.noise is None else found.noise
        z = alpha_s * x + sigma_s * e
        if next_time != s:
            back = float(path.posterior(next_time, s).transition) ** 0.5
            z = path.scalars(next_time)[0] / alpha_s * z + back * draw_noise(z, generator)
        z = continued(callback, i + 1, steps, z, x)
    return z


class Stochastic(Sampler):
    """A step twice as long, then noise back: for distilled models."""

    deterministic = False
    corrected = keeps_noise = True
    sample = staticmethod(sample)
