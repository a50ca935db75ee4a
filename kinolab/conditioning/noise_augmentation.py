"""The noise augmentation: a vector of one number, the standard deviation of the noise in the first frame's pixels.

Stable Video Diffusion (Blattmann et al. 2023, section 4.2), after Ho et al. 2021: log sigma ~ N(-3, 0.5^2) in training.
Unlike a noise level (`noise_level`) it leaves the picture at its size, x + sigma e, and is of pixels, not of latents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field

from kinolab.conditioning.base import ConditionConfig, Draws, Setting, VectorCondition
from kinolab.contracts.conditions import Conditions
from kinolab.contracts.examples import Example
from kinolab.contracts.request import Request

MOST = 10.0
"""More than pixels in [-1, 1] can be told apart in; a number above is a mistake."""


class NoiseAugmentationConfig(ConditionConfig):
    """Deviations of the noise, in pixels from -1 to 1."""

    dropout: float = Field(0.0, ge=0, le=1)
    """Share of samples that are not told it."""
    log_mean: float = -3.0
    """Mean of its logarithm in training."""
    log_std: float = Field(0.5, ge=0)
    """Standard deviation of its logarithm in training."""
    strength: float = Field(0.02, ge=0, le=MOST)
    """That of a request which names none."""


class NoiseAugmentation(VectorCondition):
    """How much noise there is in the picture that `image` makes latents of."""

    name = "noise_augmentation"
    Config = NoiseAugmentationConfig

    def asked(self, request: Request, setting: Setting) -> float:
        """The request's strength, or the config's.

        Raises:
            InputError: for one outside of 0 to 10.
        """
        return self._number(request, self.config.strength, MOST, f"0 (a clean image; the usual is 0.02) to {MOST:g}")

    def shown(self, examples: Sequence[Example], setting: Setting, draws: Draws) -> Sequence[float]:
        """A random strength for each example."""
        c = self.config
        normal = [float(torch.randn((), generator=source)) for source in draws(self.name)]
        return [math.exp(c.log_mean + c.log_std * n) for n in normal]


def strengths(before: Conditions, count: int) -> list[float]:
    """The strength of each row as told so far; 0 for a model that is told none."""
    told = before.tensor(NoiseAugmentation.name)
    return [0.0] * count if told is None else told.tolist()
