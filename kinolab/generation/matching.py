"""The toy world as a model makes its clips, so that what it generates can be held against what is true."""

from __future__ import annotations

from kinolab.autoencoders.base import AutoencoderSpec
from kinolab.models import VideoModel
from kinolab.models.stage_config import StageConfig
from kinolab.toyworld.clips import EVENT_SECONDS, WorldConfig


def matching_world(model: VideoModel) -> tuple[WorldConfig, list[str]]:
    """The toy world at the size, length and rate of a model's clips, and what had to differ."""
    return world_of(model.output.config, model.output.autoencoder.spec)


def world_of(config: StageConfig, spec: AutoencoderSpec) -> tuple[WorldConfig, list[str]]:
    """The toy world at the size, length and rate of a stage's clips, and what had to differ."""
    height, width = config.size
    ratio = spec.spatial_ratio
    side = max(32, min(height, width, 256))
    side = side // ratio * ratio if side // ratio * ratio >= 32 else -(-32 // ratio) * ratio
    world = WorldConfig(size=side, frames=config.frames, fps=config.fps)
    notes = []
    if (height, width) != (side, side):
        notes.append(f"the model makes {width}x{height}; the true clips are {side}x{side}")
    if (world.frames - 1) / world.fps < EVENT_SECONDS:
        notes.append(f"clips shorter than {EVENT_SECONDS:g} s show no event to its end: the captions name objects only")
    return world, notes
