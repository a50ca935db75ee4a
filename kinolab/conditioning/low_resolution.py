"""The low-resolution clip that a model refines: a field, its latents at the size that is generated, with some noise.

The second stage of a cascade (Ho et al. 2022, Imagen Video, section 2.3; Saharia et al. 2021, SR3): the clip is
enlarged to the size that is generated and encoded; noise of a level that the model is told (`noise_level`) is put in.
In training it is the clip itself, shrunk and enlarged again. Its null is no clip: a field of zeros that adds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kinolab.conditioning.base import ConditionConfig, Draws, FieldCondition, Setting
from kinolab.conditioning.clips import encoded, example_clips, request_clip
from kinolab.conditioning.noise_level import levels, noised
from kinolab.contracts.conditions import Conditions
from kinolab.contracts.examples import Example
from kinolab.contracts.request import Request


class LowResolutionConfig(ConditionConfig):
    """How a training clip becomes one of low resolution."""

    factor: int = Field(4, ge=2)
    """How many times smaller its sides become."""


class LowResolution(FieldCondition[Tensor]):
    """A clip to be refined: in a request a video's file or pixels (3, T, H, W) in [-1, 1], of any size."""

    name = "low_resolution"
    Config = LowResolutionConfig

    def asked(self, request: Request, setting: Setting) -> Tensor | None:
        """The request's clip (3, T, H, W) at the size that is generated."""
        return request_clip(self.name, request, setting)

    def shown(self, examples: Sequence[Example], setting: Setting, draws: Draws) -> Sequence[Tensor]:
        """The examples' own clips, shrunk and enlarged again."""
        return [shrunk(clip, self.config.factor) for clip in example_clips(self.name, examples, setting)]

    def tell(self, told: Sequence[Tensor | None], setting: Setting, before: Conditions, draws: Draws) -> Conditions:
        """Latents (B, C, T, H, W) of clips (3, T, H, W) with the noise that was told."""
        latents = encoded(told, setting)
        rows = zip(latents, levels(before, len(told)), draws(f"{self.name} noise"), strict=True)
        return self.stacked([None if z is None else noised(z, level, source) for z, level, source in rows], setting)


def shrunk(clip: Tensor, factor: int) -> Tensor:
    """A clip (3, T, H, W) shrunk by averages over squares and enlarged to its size again, by linear interpolation."""
    frames = clip.transpose(0, 1)
    height, width = (max(1, side // factor) for side in clip.shape[2:])
    small = F.interpolate(frames, (height, width), mode="area")
    return F.interpolate(small, tuple(clip.shape[2:]), mode="bilinear", align_corners=False).transpose(0, 1)
