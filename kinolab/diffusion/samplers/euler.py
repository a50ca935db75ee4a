"""Euler steps along the probability-flow ODE of any Gaussian path, in rectified-flow coordinates.

Dividing z = alpha x + sigma e by (alpha + sigma) turns every path into rectified flow at time
tau = sigma / (alpha + sigma): dz/dtau = e - x. It is finite at zero SNR and at the clean end.
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
    """y_s = y_t + (tau_s - tau_t) * (e - x), with y = z / (alpha + sigma) (Liu et al. 2022)."""
    steps = len(times) - 1
    for i in range(steps):
        t, s = float(times[i]), float(times[i + 1])
        alpha_t, sigma_t = path.scalars(t)
        alpha_s, sigma_s = path.scalars(s)
        x = denoise(z, t).sample
        velocity = sample_to_noise(x, z, alpha_t, sigma_t) - x
        tau_t, tau_s = sigma_t / (alpha_t + sigma_t), sigma_s / (alpha_s + sigma_s)
        z = (alpha_s + sigma_s) * (z / (alpha_t + sigma_t) + (tau_s - tau_t) * velocity)
        z = continued(callback, i + 1, steps, z, x)
    return z


class Euler(Sampler):
    """Euler's steps: deterministic, of first order."""

    corrected = True
    sample = staticmethod(sample)
