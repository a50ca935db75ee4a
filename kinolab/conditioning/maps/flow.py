"""Optical flow as colours, by OpenCV: the hue says which way a pixel moves, the brightness how far."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from kinolab.conditioning.maps.base import ControlMap, from_frames, to_frames
from kinolab.conditioning.maps.opencv import need_opencv
from kinolab.contracts.table import KindConfig
from kinolab.errors import InputError


class FlowConfig(KindConfig):
    """Which flow, and what counts as far."""

    kind: Literal["flow"] = "flow"
    method: Literal["dis", "farneback"] = "dis"
    """Dense inverse search (Kroeger et al. 2016), or Farneback's polynomials (2003)."""
    full: float = Field(0.05, gt=0)
    """The way from frame to frame that is shown brightest, as a share of the shorter side."""


class Flow(ControlMap):
    """Flow from each frame to the next; the last frame has that of the one before."""

    Config = FlowConfig
    config: FlowConfig

    def make(self, clip: Tensor) -> Tensor:
        """Colours (3, T, H, W), black where nothing moves."""
        if clip.shape[1] < 2:
            raise InputError(f"a map of flow needs at least two frames, got {clip.shape[1]}")
        cv2, frames = need_opencv("maps of optical flow"), to_frames(clip)
        if min(frames.shape[1:3]) < 16:
            raise InputError(f"a map of flow needs frames of at least 16 x 16 pixels, got {frames.shape[1:3]}")
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # patches look at their neighbours within a thread's share of the rows
        try:
            flows = [self._between(cv2, a, b) for a, b in pairwise(grey)]
        finally:
            cv2.setNumThreads(threads)
        shown = [self._coloured(cv2, flow) for flow in flows]
        return from_frames(np.stack([*shown, shown[-1]]) / 255.0, clip)

    def _between(self, cv2: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Flow (H, W, 2) in pixels, (x, y)."""
        if self.config.method == "farneback":
            return cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0)
        search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        search.setFinestScale(0)
        return search.calc(a, b, None)

    def _coloured(self, cv2: Any, flow: np.ndarray) -> np.ndarray:
        """(H, W, 2) -> (H, W, 3) uint8."""
        length, angle = cv2.cartToPolar(flow[..., 0], flow[..., 1])
        full = self.config.full * min(flow.shape[:2])
        colour = np.empty((*flow.shape[:2], 3), np.uint8)
        colour[..., 0] = angle * 90 / np.pi  # OpenCV's hues go from 0 to 180
        colour[..., 1] = 255
        colour[..., 2] = np.clip(255 * length / full, 0, 255)
        return cv2.cvtColor(colour, cv2.COLOR_HSV2RGB)
