"""The guidance scale: a vector of one number, how far from no prompt a distilled model's samples lie.

Meng et al. 2023, On Distillation of Guided Diffusion Models, section 3.1: a student that is told the scale makes in one
call what classifier-free guidance makes of two. It is told w = scale - 1, through the features of a time, as the latent
consistency models are (Luo et al. 2023, section 4.2).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from pydantic import Field, model_validator

from kinolab.conditioning.base import ConditionConfig, Draws, Setting, VectorCondition
from kinolab.contracts.examples import Example
from kinolab.contracts.request import Request
from kinolab.errors import InputError


class GuidanceScaleConfig(ConditionConfig):
    """Scales as of classifier-free guidance: 1 is none."""

    dropout: float = Field(0.0, ge=0, le=1)
    """Share of samples that are not told it."""
    least: float = Field(1.0, ge=0)
    """Least scale in training."""
    most: float = Field(8.0, ge=0, allow_inf_nan=False)
    """Highest scale in training; each is drawn evenly between the two."""
    scale: float = Field(4.0, ge=0, allow_inf_nan=False)
    """Scale of a request that names none."""

    @model_validator(mode="after")
    def _check(self) -> GuidanceScaleConfig:
        if self.least > self.most:
            raise ValueError(f"expected least up to most, got {self.least:g} and {self.most:g}")
        return self


class GuidanceScale(VectorCondition):
    """The scale of the guidance that a distilled model has learned."""

    name = "guidance_scale"
    Config = GuidanceScaleConfig

    @property
    def called(self) -> str:
        """What an error calls it."""
        return "a guidance scale"

    def asked(self, request: Request, setting: Setting) -> float:
        """w of the request's scale, or the config's; warns of one that was not trained.

        Raises:
            InputError: for what is no scale.
        """
        config, value = self.config, request.conditions.get(self.name)
        scale = config.scale if value is None else self._numbers(value, 1)[0]
        if not 0 <= scale < math.inf:
            raise InputError(f"{self.name}: expected a scale of at least 0, got {value!r}")
        if not config.least <= scale <= config.most:
            trained = f"{config.least:g} to {config.most:g}"
            warnings.warn(f"{self.name} {scale:g}: the model learned scales from {trained}", stacklevel=2)
        return told(scale)

    def shown(self, examples: Sequence[Example], setting: Setting, draws: Draws) -> Sequence[float]:
        """w of a random scale for each example."""
        low, high = self.config.least, self.config.most
        return [told(low + (high - low) * float(torch.rand((), generator=source))) for source in draws(self.name)]


def told(scale: float) -> float:
    """What a denoiser is told of a scale: w = scale - 1."""
    return float(scale) - 1.0
