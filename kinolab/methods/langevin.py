"""Langevin corrector steps between the steps of a sampler (Song et al. 2021; Ho et al. 2022, Video Diffusion Models).

At the time s that a step has come to,

    z <- z - size / 2 * sigma_s * e(z) + sqrt(size) * sigma_s * noise

brings z closer to the distribution that the estimate stands for, whose score is -e / sigma. Reconstruction guidance
works best with it: what a step got wrong between the given and the generated part is mended before the next.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from kinolab.config import Config as BaseConfig
from kinolab.contracts.method import Correct, Denoise, Method, Run
from kinolab.errors import InputError


class LangevinConfig(BaseConfig):
    """How many corrector steps, and how large."""

    steps: int = Field(1, ge=1)
    """Corrector steps after each step of the sampler; each costs a call of the denoiser."""
    size: float = Field(0.1, gt=0, lt=2)
    """Step size delta (the paper's is 0.1)."""


class Langevin(Method):
    """Corrects the noisy latents between two steps."""

    Config: ClassVar[type[BaseConfig]] = LangevinConfig
    corrects = True
    config: LangevinConfig

    def check(self, run: Run) -> None:
        """Raises InputError beside a step cache, whose features are those of the sampler's own steps."""
        other = next((type(m).__name__ for m in run.methods if type(m).option == "cache"), None)
        if other is not None:
            raise InputError("langevin calls the denoiser between the steps that a cache counts: leave the cache out")

    def corrected(self, inner: Correct, estimate: Denoise, run: Run) -> Correct:
        """After the inner corrections, this one's steps."""
        size = self.config.size

        def correct(z: Tensor, s: float) -> Tensor:
            z = inner(z, s)
            alpha, sigma = run.path.scalars(s)
            if sigma == 0:  # the clean sample
                return z
            for _ in range(self.config.steps):
                drift = z - alpha * estimate(z, s).sample  # sigma * e
                z = z - size / 2 * drift + size**0.5 * sigma * run.noise(z)
            return z

        return correct
