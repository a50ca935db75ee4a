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
from torch import Tensor, nn

from kinolab.denoisers.unet import Unet, UnetFields
from kinolab.errors import InputError
from kinolab.layers.normalization import NormScope
from kinolab.layers.over_time import TemporalTransformer
from kinolab.layers.slots import Clip, Place, Slots, TimeLayer, filled

VERSIONS: dict[str, dict[str, Any]] = {
    "v1": {"norm_scope": "clip", "motion_positions": 24, "motion_middle": False},
    "v2": {"norm_scope": "frame", "motion_positions": 32, "motion_middle": True},
    "v3": {"norm_scope": "frame", "motion_positions": 32, "motion_middle": False},
}
"""What the released motion modules differ in."""


class MotionFields(UnetFields):
    """The U-Net's fields and the motion modules'; a version of the released ones fills in what it differs in."""

    # Trained with linear betas between Stable Diffusion's ends, not even in their roots: SD's own give blur.
    published = {  # noqa: RUF012
        "diffusion": {"schedule": "linear", "betas": (0.00085, 0.012)},
        "sampler": {"spacing": "sd"},
    }

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
    def _check_motion(self) -> MotionFields:
        wrong = [width for width in self.block_out_channels if width % self.motion_heads]
        if wrong:
            raise ValueError(f"block_out_channels: {wrong[0]} can't be cut into {self.motion_heads} motion_heads")
        if self.num_frames > self.motion_positions:
            raise ValueError(f"num_frames {self.num_frames}: motion_positions tells {self.motion_positions} apart")
        return self


class AnimateDiffConfig(MotionFields):
    """A U-Net of images with motion modules."""

    kind: Literal["animatediff"] = "animatediff"


class MotionConfig(MotionFields):
    """Motion modules by themselves: of the U-Net's fields, the widths, layers and norms are theirs."""

    kind: Literal["motion_modules"] = "motion_modules"


MOTION = ("version", "num_frames", *(name for name in MotionFields.model_fields if name.startswith("motion_")))
"""The fields that are the motion modules' alone."""


class MotionModule(TemporalTransformer):
    """A transformer over time that one frame alone passes by."""

    def forward(self, x: Tensor, clip: Clip) -> Tensor:
        """(B, T, S, C) -> (B, T, S, C)."""
        return x if x.shape[1] == 1 else super().forward(x, clip)


class AnimateDiffSlots(Slots):
    """What stands where."""

    def __init__(self, config: MotionFields) -> None:
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


class MotionModules(nn.Module):
    """The motion modules of a U-Net by themselves, by the names that they have in it: what released files hold."""

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        self.config, slots = config, AnimateDiffSlots(config)
        levels, n = range(len(config.block_out_channels)), config.layers_per_block
        self.down_blocks = nn.ModuleList(
            _Block(slots, [config.place("down", level, j) for j in range(n)]) for level in levels
        )
        self.mid_block = _Block(slots, [config.place("middle", levels[-1])])
        self.up_blocks = nn.ModuleList(
            _Block(slots, [config.place("up", level, j) for j in range(n + 1)]) for level in reversed(levels)
        )

    def under(self, image: Unet) -> AnimateDiff:
        """An image model with these modules, with copies of the weights of both.

        Raises:
            InputError: where its widths or layers are others.
        """
        ours, theirs = self.config, image.config
        if type(image) is not Unet:
            raise InputError(f"motion modules go under a U-Net of images, got a {type(image).__name__}")
        for name in ("block_out_channels", "layers_per_block"):
            if getattr(ours, name) != getattr(theirs, name):
                said = f"motion modules for {name} {getattr(ours, name)}, the image model has {getattr(theirs, name)}"
                raise InputError(f"{said}: released ones are for Stable Diffusion 1.x")
        motion = {name: getattr(ours, name) for name in (*MOTION, "norm_scope")}
        values = theirs.model_dump(exclude={"kind", "norm_scope"}) | motion
        model = AnimateDiff(AnimateDiffConfig(**values)).to(image.conv_in.weight)
        model.load_state_dict({**image.state_dict(), **self.state_dict()})
        return model.train(image.training)

    @classmethod
    def of(cls, model: AnimateDiff) -> MotionModules:
        """A copy of a model's motion modules."""
        modules = cls(MotionConfig(**model.config.model_dump(exclude={"kind"})))
        state = model.state_dict()
        modules.load_state_dict({name: state[name] for name in modules.state_dict()})
        return modules


class _Block(nn.Module):
    """The motion modules of one block."""

    def __init__(self, slots: AnimateDiffSlots, places: list[Place]) -> None:
        super().__init__()
        self.after_attention = nn.ModuleList(filled(slots.after_attention(at)) for at in places)
