"""Maps of the toy world, read from its pixels: where its objects are, and how deep in one a pixel lies."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kinolab.conditioning.maps.base import ControlMap, from_frames, to_frames
from kinolab.conditioning.maps.discs import Path, draw_paths
from kinolab.contracts.table import KindConfig
from kinolab.toyworld.reader import read_spots
from kinolab.toyworld.words import COLOURS

STEPS = 1 / 8
"""How far from its rim an object is brightest, as a share of the shorter side."""


class WorldPathsConfig(KindConfig):
    """Discs at the objects' centres."""

    kind: Literal["world_paths"] = "world_paths"


class WorldPaths(ControlMap):
    """A disc of each object's colour at its centre, all of one size: where it is, not what it is nor how large."""

    Config = WorldPathsConfig

    def make(self, clip: Tensor) -> Tensor:
        """Discs on black (3, T, H, W)."""
        frames = to_frames(clip)
        paths = []
        for spot in read_spots(frames):
            places = np.full((len(frames), 2), np.nan)
            places[spot.time] = spot.x, spot.y
            paths.append(Path(shade(spot.colour), places))
        return from_frames(draw_paths(paths, len(frames), frames.shape[1:3]), clip)


def shade(colour: str) -> tuple[float, float, float]:
    """A colour of the toy world in [0, 1]."""
    red, green, blue = (value / 255 for value in COLOURS[colour])
    return red, green, blue


class WorldDepthConfig(KindConfig):
    """Bright objects on black."""

    kind: Literal["world_depth"] = "world_depth"


class WorldDepth(ControlMap):
    """As a depth map of round bodies: black behind them, half bright at their rims, brightest well inside.

    The toy world is flat; this is how far a pixel lies inside an object, found by its chroma (what is not an object is
    grey), without a colour.
    """

    Config = WorldDepthConfig

    def make(self, clip: Tensor) -> Tensor:
        """Grey values (3, T, H, W)."""
        frames = clip.float().transpose(0, 1)  # (T, 3, H, W)
        chroma = frames.amax(1, keepdim=True) - frames.amin(1, keepdim=True)  # of 2; 0 = grey
        inside = (chroma > 0.5).float()
        steps = max(1, round(STEPS * min(frames.shape[-2:])))
        depth, left = torch.zeros_like(inside), inside
        for _ in range(steps):
            depth = depth + left / steps
            left = -F.max_pool2d(-left, 3, stride=1, padding=1)  # what lies one pixel further inside
        # On a slope from 1/2 at the rim to 1; from a distance to a height as of a ball.
        height = inside * (0.5 + 0.5 * (1 - (1 - depth).square()).clamp(min=0).sqrt())
        return (2 * height - 1).transpose(0, 1).expand(3, -1, -1, -1).to(clip.dtype)
