"""A control map: a field, the latents of a clip that shows where something is to be, such as its edges.

ControlNet (Zhang et al. 2023) hands the map to a copy of the network, and models of video concatenate the map's latents
(Wan 2.1's control models); a denoiser's port says which. In training the map is made of the clip. In a request it is
made of a clip too, or is a map already: `{map: FILE}`. Its null is no map: a field of zeros that adds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch.nn.functional as F
from pydantic import field_validator
from torch import Tensor

from kinolab.conditioning.base import ConditionConfig, Draws, FieldCondition, Setting
from kinolab.conditioning.clips import encoded, example_clips, request_clip
from kinolab.contracts.conditions import Conditions
from kinolab.contracts.examples import Example
from kinolab.contracts.request import Request


def luminance(clip: Tensor) -> Tensor:
    """Grey pixels (3, T, H, W) of a clip, by the weights of BT.601: what remains is to find the colours."""
    weights = clip.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1, 1)
    return (clip * weights).sum(0, keepdim=True).expand(3, -1, -1, -1)


def edges(clip: Tensor) -> Tensor:
    """How much the luminance changes from pixel to pixel, -1 = not at all, as (3, T, H, W): Sobel's gradient."""
    frames = luminance(clip)[:1].transpose(0, 1)
    across = clip.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    kernels = across.new_empty(2, 1, 3, 3)
    kernels[0, 0], kernels[1, 0] = across, across.T
    gradient = F.conv2d(F.pad(frames, (1, 1, 1, 1), mode="replicate"), kernels).square().sum(1, keepdim=True).sqrt()
    # Half of the range between black and white, over two pixels, is as strong as an edge gets.
    return (4 * gradient - 1).clamp(max=1).transpose(0, 1).expand(3, -1, -1, -1)


MAPS: dict[str, Callable[[Tensor], Tensor]] = {"edges": edges, "luminance": luminance}
"""Name -> function from a clip (3, T, H, W) to its map of the same shape, in [-1, 1]."""


class ControlConfig(ConditionConfig):
    """Which map is made of a clip."""

    map: str = "edges"
    """The map: edges, or luminance."""

    @field_validator("map")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in MAPS:
            raise ValueError(f"expected one of {', '.join(MAPS)}")
        return name


class Control(FieldCondition[Tensor]):
    """Where something is to be. In a request: a clip (file or pixels) that the map is made of, or {"map": the map}."""

    name = "control"
    Config = ControlConfig

    def asked(self, request: Request, setting: Setting) -> Tensor | None:
        """The request's map (3, T, H, W)."""
        given = request.conditions.get(self.name)
        if isinstance(given, Mapping) and set(given) == {"map"}:
            ready = replace(request, conditions={**request.conditions, self.name: given["map"]})
            return request_clip(self.name, ready, setting)
        clip = request_clip(self.name, request, setting)
        return None if clip is None else MAPS[self.config.map](clip)

    def shown(self, examples: Sequence[Example], setting: Setting, draws: Draws) -> Sequence[Tensor]:
        """The maps of the examples' clips."""
        return [MAPS[self.config.map](clip) for clip in example_clips(self.name, examples, setting)]

    def tell(self, told: Sequence[Tensor | None], setting: Setting, before: Conditions, draws: Draws) -> Conditions:
        """Latents (B, C, T, H, W) of maps (3, T, H, W)."""
        return self.stacked(encoded(told, setting), setting)
