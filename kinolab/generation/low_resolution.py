"""A low-resolution clip that a generated one is held to: super-resolution by a model that was not trained for it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
from pydantic import Field
from torch import Tensor

from kinolab import video
from kinolab.config import Config
from kinolab.errors import InputError
from kinolab.layers.resizing import Filter
from kinolab.methods import SpatialConfig, SpatialReconstruction
from kinolab.models import VideoModel


class LowResolutionConfig(Config):
    """A clip, and how the made video is held to it (`kinolab.methods.spatial`)."""

    video: Path
    """The clip, of at most the size that is made; what is made, shrunk to its size, shall look like it."""
    start: float = Field(0.0, ge=0)
    """Seconds of the clip that are left out at its beginning."""
    weight: float = Field(4.0, gt=0)
    """Weight of the gradient. Too high makes noise."""
    filter: Filter = "area"
    """What the clip was shrunk by: area, bilinear, bicubic, nearest or lanczos."""

    def files(self) -> list[Path]:
        """The files that it reads."""
        return [self.video]


def low_resolution(
    config: LowResolutionConfig, model: VideoModel, frames: int, fps: float, size: tuple[int, int]
) -> SpatialReconstruction:
    """The method that holds a video of so many frames and that size to the clip.

    Raises:
        InputError: for a clip that can't be read, is too short or larger than the video, and for a cascade.
    """
    if model.stages:
        raise InputError("low_resolution: a cascade enlarges by its later stages; use one stage by itself")
    clip = read_low(config, frames, fps)
    if clip.shape[3] > size[0] or clip.shape[4] > size[1]:
        raise InputError(
            f"{config.video}: is {clip.shape[3]} x {clip.shape[4]}, larger than the {size[0]} x {size[1]} that is made"
        )
    method = SpatialConfig(weight=config.weight, filter=config.filter)
    return SpatialReconstruction(method, low=clip.to(model.device), pixels=model.pixels)


def read_low(config: LowResolutionConfig, frames: int, fps: float) -> Tensor:
    """The clip (1, 3, T, h, w) in [-1, 1] at its own size, so many frames of it at that rate."""
    read = [f.image for f in islice(video.iter_frames(config.video, start=config.start, fps=fps), frames)]
    if len(read) < frames:
        raise InputError(f"{config.video}: has {len(read)} frames at {fps:g} fps, and {frames} are made; use --frames")
    return video.to_tensor(np.stack(read))[None]
