"""Replacement (Ho et al. 2022, Video Diffusion Models, section 3.1): what is given is put in, noised, at every step.

Putting it clean into the estimate of the clean sample does exactly that with any sampler: the sampler then takes that
part along alpha_t x + sigma_t e with the noise e it began with. The rest is only told of it through the denoiser's own
attention, and need not fit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from kinolab.config import Config as BaseConfig
from kinolab.contracts.method import Denoise, Denoised, Method, Run
from kinolab.methods.held import Held


class ReplacementConfig(BaseConfig):
    """Nothing to choose."""


class Replacement(Method):
    """Holds a sample to latents that are given whole, by putting them in."""

    Config: ClassVar[type[BaseConfig]] = ReplacementConfig
    option = "steering"
    whole_clips = True

    def __init__(self, config: ReplacementConfig | None = None, *, held: Held) -> None:
        super().__init__(config)
        self.held = held

    def estimate(self, inner: Denoise, run: Run) -> Denoise:
        """The same estimate with the given latents in it."""

        def denoise(z: Tensor, t: float) -> Denoised:
            found = inner(z, t)
            return replace(found, sample=torch.where(self.held.known, self.held.given, found.sample))

        return denoise
