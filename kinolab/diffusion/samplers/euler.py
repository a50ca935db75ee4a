"""Euler steps along the probability-flow ODE of any Gaussian path, in the path's own coordinates.

Dividing z = alpha x + sigma e by n = alpha + sigma turns every path into rectified flow at tau = sigma / n, with
dz/dtau = e - x: finite at zero SNR and at the clean end. EDM divides by alpha, with slope e (`NoisePath.line`).
Euler's step is the same in either.
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
    """y_s = y_t + (tau_s - tau_t) * slope, with y = z / n (Liu et al. 2022; Karras et al. 2022)."""
    steps = len(times) - 1
    for i in range(steps):
        z, t = churned(z, float(times[i]), path, config.churn, steps, generator)
        s = float(times[i + 1])
        (n_t, tau_t), (n_s, tau_s) = path.line(t), path.line(s)
        alpha, sigma = path.scalars(t)
        found = denoise(z, t)
        x, e = found.sample, found.noise
        if e is None:
            e = sample_to_noise(x, z, alpha, sigma)
        else:  # the line from the noise to the changed sample passes through another z
            z = alpha * x + sigma * e
        slope = path.slope(x, e)
        z = n_s * (z / n_t + (tau_s - tau_t) * slope)
        z = continued(callback, i + 1, steps, z, x)
    return z


class Euler(Sampler):
    """Euler's steps: of first order; deterministic without churn."""

    fields = ("churn",)
    corrected = keeps_noise = True
    sample = staticmethod(sample)
