"""AnimateDiff (Guo et al. 2023, arXiv:2307.04725): motion modules under the weights of any Stable Diffusion 1.x.

Behind every residual block and its transformer stands a motion module: a transformer over the frames of each place that
tells frames apart by a fixed table. The image model's weights stay as they are; one frame alone passes by the modules,
so that it is exactly the image model's.

v1 takes the norms of residual blocks over all frames of a clip, v2 and v3 of each frame; v2 has a module in the middle
block too. diffusers normalises what a motion module is given over all frames, the original each frame by itself.

Shapes: B batch, T frames, S places of a frame, C channels.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor

from kinolab.denoisers.unet import Unet, UnetFields
from kinolab.layers.normalization import NormScope
from kinolab.layers.over_time import TemporalTransformer
from kinolab.layers.slots import Clip, Place, Slots, TimeLayer

VERSIONS: dict[str, dict[str, Any]] = {
    "v1": {"norm_scope": "clip", "motion_positions": 24, "motion_middle": False},
    "v2": {"norm_scope": "frame", "motion_positions": 32, "motion_middle": True},
    "v3": {"norm_scope": "frame", "motion_positions": 32, "motion_middle": False},
}
"""What the released motion modules differ in."""


class AnimateDiffConfig(UnetFields):
    """The U-Net's fields and the motion modules'; a version of the released ones fills in what it differs in."""

    kind: Literal["animatediff"] = "animatediff"
    version: Literal["v1", "v2", "v3"] | None = None
    """Preset: norm_scope, motion_positions and motion_middle of the released modules; explicit values win over it."""
    num_frames: int = Field(16, ge=1)
    """Latent frames in training."""
    motion_heads: int = Field(8, ge=1)
    """Heads of the motion modules; they divide all widths."""
    motion_positions: int = Field(32, ge=1)
    """Frames that the modules' table tells apart (v1 24): the most that a clip may have."""
    motion_middle: bool = False
    """A motion module in the middle block too (v2)."""
    motion_down: tuple[int, ...] | None = None
    """Resolutions, 0 the finest, that have modules on the way down; none = all."""
    motion_up: tuple[int, ...] | None = None
    """The same on the way up."""
    motion_depth: int = Field(1, ge=1)
    """Blocks of each module."""
    motion_norm_scope: NormScope = "frame"
    """Statistics of the norm at a module's input: of each frame as in the original, or over all as in diffusers."""

    @model_validator(mode="before")
    @classmethod
    def _fill_version(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("version") in VERSIONS:
            return {**VERSIONS[values["version"]], **values}
        return values

    @model_validator(mode="after")
    def _check_motion(self) -> AnimateDiffConfig:
        wrong = [width for width in self.block_out_channels if width % self.motion_heads]
        if wrong:
            raise ValueError(f"block_out_channels: {wrong[0]} can't be cut into {self.motion_heads} motion_heads")
        if self.num_frames > self.motion_positions:
            raise ValueError(f"num_frames {self.num_frames}: motion_positions tells {self.motion_positions} apart")
        return self


class MotionModule(TemporalTransformer):
    """A transformer over time that one frame alone passes by."""

    def forward(self, x: Tensor, clip: Clip) -> Tensor:
        """(B, T, S, C) -> (B, T, S, C)."""
        return x if x.shape[1] == 1 else super().forward(x, clip)


class AnimateDiffSlots(Slots):
    """What stands where."""

    def __init__(self, config: AnimateDiffConfig) -> None:
        self.config = config

    def after_attention(self, place: Place) -> TimeLayer | None:
        """A motion module where the config says so."""
        c = self.config
        if place.part == "middle":
            here = c.motion_middle
        else:
            levels = c.motion_down if place.part == "down" else c.motion_up
            here = levels is None or place.level in levels
        if not here:
            return None
        size = place.width // c.motion_heads
        return MotionModule(
            place.width,
            c.motion_heads,
            size,
            c.norm_groups,
            scope=c.motion_norm_scope,
            positions=c.motion_positions,
            depth=c.motion_depth,
        )


class AnimateDiff(Unet):
    """A U-Net of images with motion modules; see `AnimateDiffConfig`."""

    Config = AnimateDiffConfig
    config: AnimateDiffConfig

    def slots(self) -> Slots:
        """Motion modules."""
        return AnimateDiffSlots(self.config)
