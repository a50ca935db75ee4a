"""Ancestral sampling (Ho et al. 2020), with a fixed or a learned variance (Nichol & Dhariwal 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from kinolab.diffusion.path import NoisePath, Posterior
from kinolab.diffusion.samplers.base import Callback, Denoise, Denoised, Sampler, SamplerConfig, draw_noise
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
    callback: Callback | None = None,
) -> Tensor:
    """z_s ~ N(posterior mean given the clean estimate, variance); the last step takes the mean.

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
        if callback is not None:
            callback(i + 1, steps, z, denoised.sample)
    return z


def _deviation(q: Posterior, denoised: Denoised, config: SamplerConfig) -> Tensor | float:
    """The standard deviation of the step: a scalar, or a tensor like z where it is learned."""
    choice = config.variance
    if choice == "auto":
        choice = "small" if denoised.variance is None else "learned"
    if choice == "small":
        return float(q.variance) ** 0.5
    if choice == "large":
        return float(q.transition) ** 0.5
    if denoised.variance is None:
        raise InputError("variance=learned needs a denoiser that predicts its variance: use small, large or auto")
    return torch.exp(0.5 * learned_log_variance(denoised.variance, float(q.variance.log()), float(q.transition.log())))


class Ddpm(Sampler):
    """Ancestral sampling: stochastic."""

    fields = ("variance",)
    deterministic = False
    sample = staticmethod(sample)
