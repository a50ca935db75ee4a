"""Ancestral sampling (Ho et al. 2020), with a fixed or a learned variance (Nichol & Dhariwal 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from kinolab.diffusion.path import NoisePath, Posterior
from kinolab.diffusion.samplers.base import AfterStep, Denoise, Denoised, Sampler, SamplerConfig, continued, draw_noise
from kinolab.diffusion.variational import learned_log_variance
from kinolab.errors import InputError


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
    """z_s ~ N(posterior mean given the clean estimate, variance); the last step takes the mean.

    A fixed variance lies between its two bounds as `gamma` says (Ho et al. 2022, Video Diffusion Models, eq. 4).

    Raises:
        InputError: where the learned variance is asked for and the denoiser predicts none.
    """
    steps = len(times) - 1
    for i in range(steps):
        t, s = float(times[i]), float(times[i + 1])
        denoised = denoise(z, t)
        q = path.posterior(t, s)
        z = float(q.z) * z + float(q.sample) * denoised.sample
        if s != path.clean_time:
            z = z + _deviation(q, denoised, config) * draw_noise(z, generator)
        z = continued(callback, i + 1, steps, z, denoised.sample)
    return z


def _deviation(q: Posterior, denoised: Denoised, config: SamplerConfig) -> Tensor | float:
    """The standard deviation of the step: a scalar, or a tensor like z where it is learned."""
    choice = config.variance
    if choice == "auto":
        choice = "small" if denoised.variance is None else "learned"
    if choice == "small":
        # sigma_small^(1 - gamma) sigma_large^gamma: exactly small and nothing else for gamma = 0
        return float(q.variance) ** (0.5 * (1 - config.gamma)) * float(q.transition) ** (0.5 * config.gamma)
    if choice == "large":
        return float(q.transition) ** 0.5
    if denoised.variance is None:
        raise InputError("variance=learned needs a denoiser that predicts its variance: use small, large or auto")
    return torch.exp(0.5 * learned_log_variance(denoised.variance, float(q.variance.log()), float(q.transition.log())))


class Ddpm(Sampler):
    """Ancestral sampling: stochastic."""

    fields = ("variance", "gamma")
    deterministic = False
    corrected = True
    sample = staticmethod(sample)
