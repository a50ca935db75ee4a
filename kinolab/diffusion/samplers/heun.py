"""Heun's second-order steps along the probability-flow ODE of any Gaussian path, in the path's own coordinates.

See euler.py for the coordinates. Slopes at two times are averaged, so they matter here: EDM's own are Karras's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kinolab.diffusion.conversions import sample_to_noise
from kinolab.diffusion.path import NoisePath
from kinolab.diffusion.samplers.base import AfterStep, Denoise, Sampler, SamplerConfig, continued
from kinolab.diffusion.samplers.churn import churned


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
        z, t = churned(z, float(times[i]), path, config.churn, steps, generator)
        s = float(times[i + 1])
        (n_t, tau_t), (n_s, tau_s) = path.line(t), path.line(s)
        y = z / n_t
        x = denoise(z, t).sample
        slope = path.slope(x, sample_to_noise(x, z, *path.scalars(t)))
        z = n_s * (y + (tau_s - tau_t) * slope)
        # At the clean end there is no noise left to tell from the sample, hence no second slope.
        if s != path.clean_time:
            x = denoise(z, s).sample
            slope = 0.5 * (slope + path.slope(x, sample_to_noise(x, z, *path.scalars(s))))
            z = n_s * (y + (tau_s - tau_t) * slope)
        z = continued(callback, i + 1, steps, z, x)
    return z


class Heun(Sampler):
    """Heun's steps: of second order, two calls of the denoiser in each but the last; deterministic without churn."""

    spacing = "linspace"
    """On a Gaussian target at 50 steps of the linear schedule it errs 50 times less so: its last step, of first order,
    is then the shortest."""
    calls = 2
    fields = ("churn",)
    corrected = True
    sample = staticmethod(sample)
