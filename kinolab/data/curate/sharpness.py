"""How sharp a clip is, whatever its contrast.

Crete et al. 2007, "The blur effect": blurring a sharp picture once more takes most of the differences between
neighbouring pixels away, blurring a blurred one takes few. The number is the share that is taken, in the direction in
which less is, so 0 is as blurred as can be and values near 1 are sharp.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from kinolab.data.curate.frames import EachFrame, FrameConfig, FrameSignal, Part, Score, Trace, View, Watcher, inside
from kinolab.data.curate.frames import mean_of as mean

TAPS = 9
"""Pixels of the box that a picture is blurred once more by."""


class SharpnessConfig(FrameConfig):
    """How sharpness is measured."""

    side: int = Field(512, ge=32)
    """Pixels of the shorter side that it is measured at; a smaller frame as it is."""


def sharpness(grey: np.ndarray) -> float:
    """Of a grey picture (H, W); 0 for one without differences."""
    return min(_along(grey), _along(grey.T))


def _along(grey: np.ndarray) -> float:
    """The share of the differences along the columns that a blur along them takes."""
    padded = np.pad(grey.astype(np.float64), ((TAPS // 2, TAPS // 2), (0, 0)), mode="edge")
    sums = np.concatenate([np.zeros((1, grey.shape[1])), padded.cumsum(0)])
    blurred = (sums[TAPS:] - sums[:-TAPS]) / TAPS
    own, left = (np.abs(np.diff(a, axis=0)) for a in (grey.astype(np.float64), blurred))
    total = float(own.sum())
    return float(np.maximum(0, own - left).sum()) / total if total > 1e-3 * own.size else 0.0


class Sharpness(FrameSignal):
    """Sharpness of a clip."""

    Config = SharpnessConfig
    scores: ClassVar[dict[str, Score]] = {
        "sharpness": Score("share", "0 as blurred as can be, near 1 sharp; mean over frames")
    }

    def watch(self) -> Watcher:
        """Begin a file."""
        return EachFrame(["sharpness"], self._numbers)

    def _numbers(self, view: View) -> tuple[float]:
        return (sharpness(view.grey(self.config.side)),)

    def score(self, trace: Trace, part: Part) -> dict[str, float | None]:
        """The mean over the frames looked at."""
        return {"sharpness": mean(inside(trace, part), "sharpness")}
