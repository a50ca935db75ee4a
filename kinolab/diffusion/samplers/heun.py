"""Heun's second-order steps along the probability-flow ODE of any Gaussian path, in rectified-flow coordinates.

See euler.py for the coordinates: y = z / (alpha + sigma), tau = sigma / (alpha + sigma), dy/dtau = e - x.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kinolab.diffusion.conversions import sample_to_noise
from kinolab.diffusion.path import NoisePath
from kinolab.diffusion.samplers.base import AfterStep, Denoise, Sampler, SamplerConfig, continued


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
    """Average of the slopes at both ends of each step; the last step is Euler's (Karras et al. 2022, algorithm 1)."""
    steps = len(times) - 1
    for i in range(steps):
        t, s = float(times[i]), float(times[i + 1])
        alpha_t, sigma_t = path.scalars(t)
        alpha_s, sigma_s = path.scalars(s)
        tau_t, tau_s = sigma_t / (alpha_t + sigma_t), sigma_s / (alpha_s + sigma_s)
        y = z / (alpha_t + sigma_t)
        x = denoise(z, t).sample
        slope = sample_to_noise(x, z, alpha_t, sigma_t) - x
        z = (alpha_s + sigma_s) * (y + (tau_s - tau_t) * slope)
        # At the clean end there is no noise left to tell from the sample, hence no second slope.
        if s != path.clean_time:
            x = denoise(z, s).sample
            slope = 0.5 * (slope + sample_to_noise(x, z, alpha_s, sigma_s) - x)
            z = (alpha_s + sigma_s) * (y + (tau_s - tau_t) * slope)
        z = continued(callback, i + 1, steps, z, x)
    return z


class Heun(Sampler):
    """Heun's steps: deterministic, of second order, two calls of the denoiser in each but the last."""

    spacing = "linspace"
    """On a Gaussian target at 50 steps of the linear schedule it errs 50 times less so: its last step, of first order,
    is then the shortest."""
    calls = 2
    corrected = True
    sample = staticmethod(sample)
