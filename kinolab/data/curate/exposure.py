"""How bright a clip is, how much of it is burnt out or black, and how far its greys reach."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from kinolab.data.curate.frames import EachFrame, FrameSignal, Part, Score, Trace, View, Watcher, inside
from kinolab.data.curate.frames import mean_of as mean

SIDE = 256
BLACK, WHITE = 5.0, 250.0
"""Grey values, of 255, below and above which nothing can be told any more."""
NAMES = ("brightness", "clipped", "contrast")


class Exposure(FrameSignal):
    """Light of a clip."""

    scores: ClassVar[dict[str, Score]] = {
        "brightness": Score("share", "mean grey value, 0 black and 1 white"),
        "clipped": Score("share", "pixels that are black or white"),
        "contrast": Score("share", "standard deviation of grey values, of at most 0.5"),
    }

    def watch(self) -> Watcher:
        """Begin a file."""
        return EachFrame(NAMES, _numbers)

    def score(self, trace: Trace, part: Part) -> dict[str, float | None]:
        """Means over the frames looked at."""
        found = inside(trace, part)
        return {name: mean(found, name) for name in NAMES}


def _numbers(view: View) -> tuple[float, float, float]:
    grey = view.grey(SIDE)
    clipped = float(((grey <= BLACK) | (grey >= WHITE)).mean())
    return float(grey.mean(dtype=np.float64)) / 255, clipped, float(grey.std(dtype=np.float64)) / 255
