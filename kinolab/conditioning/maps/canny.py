"""Canny's edges (Canny 1986) by OpenCV: white lines of one pixel on black, as ControlNet's released models take."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from kinolab.conditioning.maps.base import ControlMap, from_frames, to_frames
from kinolab.conditioning.maps.opencv import need_opencv
from kinolab.contracts.table import KindConfig


class CannyConfig(KindConfig):
    """OpenCV's two thresholds, on grey values from 0 to 255."""

    kind: Literal["canny"] = "canny"
    low: float = Field(100.0, ge=0)
    """A line is followed while its gradient is above this."""
    high: float = Field(200.0, ge=0)
    """A line begins where its gradient is above this."""


class Canny(ControlMap):
    """Edges as lines, with ControlNet's usual thresholds."""

    Config = CannyConfig
    config: CannyConfig

    def make(self, clip: Tensor) -> Tensor:
        """White lines on black (3, T, H, W)."""
        cv2 = need_opencv("Canny edges")
        low, high = self.config.low, self.config.high
        lines = [cv2.Canny(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), low, high) for frame in to_frames(clip)]
        return from_frames(np.stack(lines) / 255.0, clip)
