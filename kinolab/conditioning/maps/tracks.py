"""Trajectories of a real clip: corners of its first frame, followed by Lucas and Kanade's method in OpenCV."""

from __future__ import annotations

import colorsys
from itertools import pairwise
from typing import Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from kinolab.conditioning.maps.base import ControlMap, from_frames, to_frames
from kinolab.conditioning.maps.discs import Path, draw_paths
from kinolab.conditioning.maps.opencv import need_opencv
from kinolab.contracts.table import KindConfig
from kinolab.errors import InputError


class TracksConfig(KindConfig):
    """How many points are followed."""

    kind: Literal["tracks"] = "tracks"
    points: int = Field(12, ge=1, le=400)
    """At most so many, the clearest corners of the first frame."""
    apart: float = Field(0.1, gt=0, lt=1)
    """Least distance of two points in the first frame, as a share of the shorter side."""


class Tracks(ControlMap):
    """Points that are followed through a clip, each a disc of its own hue; one that is lost ends."""

    Config = TracksConfig
    config: TracksConfig

    def make(self, clip: Tensor) -> Tensor:
        """Discs on black (3, T, H, W)."""
        frames = to_frames(clip)
        places = self._followed(frames)
        hues = [colorsys.hsv_to_rgb(k / max(1, places.shape[1]), 1.0, 1.0) for k in range(places.shape[1])]
        paths = [Path(hue, places[:, k]) for k, hue in enumerate(hues)]
        return from_frames(draw_paths(paths, len(frames), frames.shape[1:3]), clip)

    def _followed(self, frames: np.ndarray) -> np.ndarray:
        """Places (T, points, 2), NaN once a point is lost."""
        cv2, c = need_opencv("maps of tracked points"), self.config
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
        found = cv2.goodFeaturesToTrack(grey[0], c.points, 0.05, c.apart * min(frames.shape[1:3]))
        if found is None:
            raise InputError("a map of tracks: the first frame has no corner that could be followed; use another map")
        places, there = [found[:, 0]], [np.ones(len(found), bool)]
        for a, b in pairwise(grey):
            moved, seen, _ = cv2.calcOpticalFlowPyrLK(a, b, places[-1][:, None], None)
            there.append(there[-1] & (seen[:, 0] == 1))
            places.append(moved[:, 0])
        # OpenCV's pixel j is at j, ours covers [j, j + 1].
        return np.where(np.stack(there)[..., None], np.stack(places) + 0.5, np.nan)
