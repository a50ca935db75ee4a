"""Multistep consistency sampling (Song et al. 2023, algorithm 1; Luo et al. 2023, algorithm 3), for any Gaussian path.

It is for few-step models alone: their estimate is a sample, while an ordinary denoiser's is the mean of many.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kinolab.diffusion.consistency import consistency_function
from kinolab.diffusion.path import NoisePath
from kinolab.diffusion.samplers.base import AfterStep, Denoise, Sampler, SamplerConfig, draw_noise


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
    """x = f(z, t), then z_s = alpha_s x + sigma_s * new noise; the last step ends with x."""
    steps = len(times) - 1
    for i in range(steps):
        t, s = float(times[i]), float(times[i + 1])
        estimate = denoise(z, t).sample
        x = consistency_function(estimate, z, torch.full((len(z),), t, dtype=torch.float64), path)
        alpha, sigma = path.scalars(s)
        z = alpha * x
        if sigma > 0:
            z = z + sigma * draw_noise(z, generator)
        if callback is not None:  # its estimate is no mean, so that nothing can correct z by it
            callback(i + 1, steps, z, x)
    return z


class Consistency(Sampler):
    """Consistency sampling: a clean sample in every step, and new noise between two; for few-step models."""

    spacing = "trailing"
    """So that the first step begins with the noise that it is told of, and all are of one length."""
    fields = ("shift",)
    deterministic = False
    few_steps = True
    sample = staticmethod(sample)
