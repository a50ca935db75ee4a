"""Given parts for denoisers that were never trained to take any: steers a sampler's estimates, knows nothing of models.

Two methods (Ho et al. 2022, Video Diffusion Models, section 3.1). *Replacement* puts what is given, noised, into z at
every step. Putting it clean into the estimate of the clean sample does exactly that with any sampler: the sampler then
takes that part along alpha_t x + sigma_t e with the noise e it began with. The rest is only told of it through the
denoiser's own attention, and need not fit. *Reconstruction guidance* adds to the rest's estimate the gradient that
makes the denoiser's own reconstruction of the given part better (their eq. 7):

    x_b <- x_b - weight * alpha_t / 2 * grad_{z_b} |x_a - x_a(z_t)|^2
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from kinolab.config import Config
from kinolab.diffusion.path import NoisePath
from kinolab.diffusion.samplers import Denoise, Denoised

Residual = Callable[[Tensor], Tensor]
"""Clean latents (B, C, T, H, W) -> what of the given part they miss, as values (B, ...) whose squares are summed."""


class SteeringConfig(Config):
    """How a denoiser that was not trained for it is held to the given part."""

    method: Literal["reconstruction", "replacement"] = "reconstruction"
    """Guidance by the given part's reconstruction error, or putting the given part in alone."""
    weight: float = Field(4.0, ge=0)
    """Weight w_r of the gradient, for `reconstruction`; 0 is replacement. Too high makes the rest noisy."""
    error: Literal["latents", "pixels"] = "latents"
    """Where the error is measured. In latents only those count of which every pixel is given; in pixels everything that
    is given counts, such as a single frame in the middle of a latent, at the cost of a decoding per step."""

    @property
    def guided(self) -> bool:
        """Whether the gradient of the given part's error is followed."""
        return self.method == "reconstruction" and self.weight > 0


@dataclass(frozen=True)
class Steering:
    """What a sampler is steered to: `given` latents (B, C, T, H, W) count where `known` (B, 1, T, H, W) is True.

    `residual` is the error's root where it is not given - sample on the known latents.
    """

    config: SteeringConfig
    given: Tensor
    known: Tensor
    residual: Residual | None = None


def steered(denoise: Denoise, steering: Steering, path: NoisePath) -> Denoise:
    """The same estimate held to the given part, to be handed to any sampler."""
    config, given, known = steering.config, steering.given, steering.known

    def residual(x: Tensor) -> Tensor:
        if steering.residual is not None:
            return steering.residual(x)
        return torch.where(known, given - x, torch.zeros_like(x))

    def steer(z: Tensor, t: float) -> Denoised:
        if not config.guided:
            estimate = denoise(z, t)
            return Denoised(torch.where(known, given, estimate.sample), estimate.variance)
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            estimate = denoise(leaf, t)
            error = residual(estimate.sample).float().square().sum()
            (gradient,) = torch.autograd.grad(error, leaf)
        alpha, _ = path.scalars(t)
        x = estimate.sample.detach() - config.weight * alpha / 2 * gradient.to(z.dtype)
        variance = None if estimate.variance is None else estimate.variance.detach()
        return Denoised(torch.where(known, given, x), variance)

    return steer
