"""Reconstruction guidance (Ho et al. 2022, Video Diffusion Models, section 3.1), for denoisers that take nothing given.

What is given is put into the estimate of the clean sample, as in replacement, and the gradient that makes the
denoiser's own reconstruction of it better is added to the rest's (their eq. 7):

    x_b <- x_b - weight * alpha_t / 2 * grad_{z_b} |x_a - x_a(z_t)|^2
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from kinolab.config import Config as BaseConfig
from kinolab.contracts.method import Denoise, Denoised, Method, Run
from kinolab.methods.gradient import followed
from kinolab.methods.held import Held


class ReconstructionConfig(BaseConfig):
    """How far the gradient is followed."""

    weight: float = Field(4.0, gt=0)
    """Weight w_r of the gradient. Too high makes the rest noisy."""


class Reconstruction(Method):
    """Holds a sample to latents or pixels, by the gradient of their reconstruction error."""

    Config: ClassVar[type[BaseConfig]] = ReconstructionConfig
    option = "steering"
    follows_gradient = True
    whole_clips = True
    config: ReconstructionConfig

    def __init__(self, config: ReconstructionConfig | None = None, *, held: Held) -> None:
        super().__init__(config)
        self.held = held

    def _residual(self, x: Tensor) -> Tensor:
        if self.held.residual is not None:
            return self.held.residual(x)
        return torch.where(self.held.known, self.held.given - x, torch.zeros_like(x))

    def estimate(self, inner: Denoise, run: Run) -> Denoise:
        """The same estimate held to the given part."""

        def denoise(z: Tensor, t: float) -> Denoised:
            found, gradient = followed(inner, z, t, lambda x: self._residual(x).float().square().sum())
            alpha, _ = run.path.scalars(t)
            x = found.sample - self.config.weight * alpha / 2 * gradient
            return replace(found, sample=torch.where(self.held.known, self.held.given, x))

        return denoise
