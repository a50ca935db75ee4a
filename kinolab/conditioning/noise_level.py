"""The noise level: a vector of one number, how much noise was put into what a denoiser is given beside its latents.

Noise conditioning augmentation (Ho et al. 2021, Cascaded Diffusion Models, section 4.2; Saharia et al. 2022, Imagen,
section 2.5): a model that refines another's output is trained on inputs with noise of a random level that it is told,
so that in sampling it neither trusts small faults of that output nor needs to be trained on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from kinolab.conditioning.base import ConditionConfig, Draws, Setting, VectorCondition
from kinolab.contracts.conditions import Conditions
from kinolab.contracts.examples import Example
from kinolab.contracts.request import Request


class NoiseLevelConfig(ConditionConfig):
    """Levels from 0 (clean) to 1 (noise alone)."""

    dropout: float = Field(0.0, ge=0, le=1)
    """Share of samples that are not told the level; what the level is of has a rate of its own."""
    most: float = Field(0.5, gt=0, le=1)
    """Highest level in training; each is drawn evenly from 0 on."""
    level: float = Field(0.1, ge=0, le=1)
    """Level of a request that names none."""
    snr: float | None = Field(None, gt=0)
    """The same as a signal-to-noise ratio alpha^2 / sigma^2, in the place of `level` (Imagen Video samples with 3 or 5:
    levels of 0.5 and 0.41)."""

    @property
    def sampled(self) -> float:
        """Level of a request that names none: sigma, with alpha^2 + sigma^2 = 1."""
        return self.level if self.snr is None else (1 + self.snr) ** -0.5


class NoiseLevel(VectorCondition):
    """The level of the noise in the low-resolution field (`low_resolution`)."""

    name = "noise_level"
    Config = NoiseLevelConfig

    def asked(self, request: Request, setting: Setting) -> float:
        """The request's level, or the config's.

        Raises:
            InputError: for a level outside of 0 to 1.
        """
        return self._number(request, self.config.sampled, 1.0, "a level from 0 (clean) to 1 (noise)")

    def shown(self, examples: Sequence[Example], setting: Setting, draws: Draws) -> Sequence[float]:
        """A random level for each example."""
        return [self.config.most * float(torch.rand((), generator=source)) for source in draws(self.name)]


def noised(latents: Tensor, level: float, source: torch.Generator) -> Tensor:
    """Latents (C, T, H, W) with noise: sqrt(1 - s^2) x + s e, of the same variance where theirs is 1."""
    noise = torch.randn(latents.shape, generator=source).to(latents)
    return (1 - level**2) ** 0.5 * latents + level * noise


def levels(before: Conditions, count: int) -> list[float]:
    """The level of each row as told so far; 0 for a model that is told none."""
    told = before.tensor(NoiseLevel.name)
    return [0.0] * count if told is None else told.tolist()
