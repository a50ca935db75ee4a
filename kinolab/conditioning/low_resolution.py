"""The low-resolution clip that a model refines: a field, its latents at the size that is generated, with some noise.

A later stage of a cascade (Ho et al. 2022, Imagen Video, sections 2.2 and 2.3; Saharia et al. 2021, SR3): the clip is
enlarged to the size that is generated and encoded; where it has fewer frames, each is repeated until the next one, or
those between are left blank. Noise of a level that the model is told (`noise_level`) is put in. In training it is the
clip itself, shrunk and enlarged again, with frames left out. Its null is no clip: a field of zeros that adds nothing.

A training clip that is a crop is told the same crop of what the whole clip becomes, so that both fit pixel for pixel.

Shapes: a clip of low resolution is (3, t, H, W) of the t frames that it has, its latents (C, t', h, w).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor

from kinolab.conditioning.base import ConditionConfig, Draws, FieldCondition, Setting
from kinolab.conditioning.clips import encoded, example_clips, request_clip
from kinolab.conditioning.crops import crop_of
from kinolab.conditioning.noise_level import levels, noised
from kinolab.contracts.conditions import Conditions
from kinolab.contracts.examples import Example
from kinolab.contracts.request import Request
from kinolab.errors import InputError
from kinolab.layers.resizing import Filter, enlarge, shrink


class LowResolutionConfig(ConditionConfig):
    """What a clip of low resolution lacks, and how a training clip becomes one."""

    factor: int = Field(4, ge=1)
    """How many times smaller its sides are; 1 = it has the size that is made."""
    frames_factor: int = Field(1, ge=1)
    """How many times fewer frames it has: the first and every n-th after it."""
    filter: Filter = "area"
    """How a training clip is shrunk; all but nearest are antialiased."""
    hold: Literal["repeat", "blank"] = "repeat"
    """What stands at frames that it has not: the frame before, or nothing, which needs latents of single frames."""

    @model_validator(mode="after")
    def _check(self) -> LowResolutionConfig:
        if self.factor == self.frames_factor == 1:
            raise ValueError("factor and frames_factor are 1: set one of them, or there is nothing to refine")
        return self

    def input_shape(self, frames: int, size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
        """Frames, and height and width, of the clip that a model is given which makes so many frames of that size."""
        height, width = (max(1, side // self.factor) for side in size)
        return (frames - 1) // self.frames_factor + 1, (height, width)

    def made_frames(self, frames: int) -> int:
        """Frames that are made of so many: the last one made is the last one given."""
        return (frames - 1) * self.frames_factor + 1


@dataclass(frozen=True)
class LowClip:
    """A clip of low resolution (3, t, H, W) in [-1, 1] at the size that is made, and the frames T that are made."""

    clip: Tensor
    frames: int


class LowResolution(FieldCondition[LowClip]):
    """A clip to be refined: in a request a video's file or pixels (3, t, h, w) in [-1, 1], of any size."""

    name = "low_resolution"
    Config = LowResolutionConfig

    def asked(self, request: Request, setting: Setting) -> LowClip | None:
        """The request's clip at the size that is generated, of the frames that a model is given for those it makes.

        Raises:
            InputError: for what is no clip, and for one of fewer frames.
        """
        config, frames = self.config, request.frames or setting.frames
        given, _ = config.input_shape(frames, setting.size)
        clip = request_clip(self.name, request, setting, frames=given, slower=config.frames_factor)
        return None if clip is None else LowClip(clip, frames)

    def shown(self, examples: Sequence[Example], setting: Setting, draws: Draws) -> Sequence[LowClip]:
        """The examples' own clips with frames left out, shrunk and enlarged again."""
        clips = zip(examples, example_clips(self.name, examples, setting), strict=True)
        return [LowClip(self._low(example, clip), clip.shape[1]) for example, clip in clips]

    def tell(self, told: Sequence[LowClip | None], setting: Setting, before: Conditions, draws: Draws) -> Conditions:
        """Latents (B, C, T, H, W) of what was told, with the noise of the level that was told."""
        by_frame = setting.autoencoder.spec.temporal_ratio == 1
        if self.config.hold == "blank" and not by_frame:
            ratio = setting.autoencoder.spec.temporal_ratio
            raise InputError(f"{self.name}.hold: blank: a latent of this autoencoder is {ratio} frames; use repeat")
        rows = [None if low is None else (low.clip if by_frame else self._held(low.clip, low.frames)) for low in told]
        triples = zip(encoded(rows, setting), levels(before, len(told)), draws(f"{self.name} noise"), strict=True)
        found = [None if z is None else noised(z, level, source) for z, level, source in triples]
        if by_frame:  # noise comes before, so that repeated frames can't be averaged to be rid of it
            pairs = zip(found, told, strict=True)
            found = [None if z is None or low is None else self._held(z, low.frames) for z, low in pairs]
        return self.stacked(found, setting)

    def _low(self, example: Example, clip: Tensor) -> Tensor:
        """An example's clip (3, T, H, W) at low resolution and its own size, (3, t, H, W)."""
        crop = crop_of(example)
        whole = clip if crop is None else crop.whole.to(clip.device)
        low = _enlarged(low_clip(whole, self.config), (whole.shape[2], whole.shape[3]))
        return low if crop is None else crop.cut(low)

    def _held(self, clip: Tensor, frames: int) -> Tensor:
        """A clip or latents (C, t, H, W) over so many frames: each until the next one, or blanks between."""
        n = self.config.frames_factor
        if n == 1:
            return clip
        if self.config.hold == "repeat":
            return clip.repeat_interleave(n, 1)[:, :frames]
        held = clip.new_zeros(clip.shape[0], frames, *clip.shape[2:])
        held[:, ::n] = clip
        return held


def low_clip(clip: Tensor, config: LowResolutionConfig) -> Tensor:
    """What a model is given to make a clip (3, T, H, W) of: fewer frames, shrunk, (3, t, h, w)."""
    frames, size = clip[:, :: config.frames_factor], (clip.shape[2], clip.shape[3])
    _, small = config.input_shape(1, size)
    return frames if small == size else shrink(frames[None], small, config.filter)[0]


def shrunk(clip: Tensor, factor: int) -> Tensor:
    """A clip (3, T, H, W) shrunk by averages over squares and enlarged to its size again, by linear interpolation."""
    return _enlarged(low_clip(clip, LowResolutionConfig(factor=factor)), (clip.shape[2], clip.shape[3]))


def _enlarged(clip: Tensor, size: tuple[int, int]) -> Tensor:
    """A clip (3, T, h, w) at another size."""
    return clip if tuple(clip.shape[2:]) == size else enlarge(clip[None], size)[0]
