"""The toy world as a model makes its clips, so that what it generates can be held against what is true."""

from __future__ import annotations

from kinolab.autoencoders.base import AutoencoderSpec
from kinolab.models import ModelConfig
from kinolab.toyworld.clips import EVENT_SECONDS, WorldConfig


def matching_world(config: ModelConfig, spec: AutoencoderSpec) -> tuple[WorldConfig, list[str]]:
    """The toy world at a model's size, length and rate, and what had to differ."""
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
