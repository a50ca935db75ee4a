"""Blocks of strong compression: edges that stand on a grid of eight pixels.

Differences of neighbouring pixels across each of the eight places of the grid, as in Wang et al. 2002 (no-reference
quality of JPEG pictures): how much the place of most differences has more than the others. It needs the pixels as they
were coded, so it looks at frames in their own size, and a clip that was scaled after it was compressed shows less.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from kinolab.data.curate.frames import EachFrame, FrameSignal, Part, Score, Trace, View, Watcher, inside
from kinolab.data.curate.frames import mean_of as mean

GRID = 8
LARGEST = 32.0
"""A difference in grey values above which it is an edge of the picture and counts as this."""


def blockiness(grey: np.ndarray) -> float:
    """Of a grey picture (H, W): (differences on the grid's lines) / (differences elsewhere) - 1, at least 0."""
    return max(0.0, (_along(grey) + _along(grey.T)) / 2)


def _along(grey: np.ndarray) -> float:
    """Down the columns: of the eight places of a grid the one of most differences, against the mean of the others."""
    steps = np.minimum(np.abs(np.diff(grey.astype(np.float64), axis=0)), LARGEST).mean(1)
    if len(steps) < 4 * GRID:
        return 0.0
    # The median over the lines of a place: one long edge of the picture, as a horizon, stands on one line alone.
    places = np.array([np.median(steps[k::GRID]) for k in range(GRID)])
    most = int(places.argmax())
    others = np.delete(places, most)
    # A half grey value keeps pictures without any texture from dividing nothing by nothing.
    return float((places[most] - others.mean()) / (others.mean() + 0.5))


class Blocks(FrameSignal):
    """Compression blocks of a clip."""

    scores: ClassVar[dict[str, Score]] = {
        "blocks": Score("share", "differences on a grid of 8 pixels beyond those elsewhere; 0 without blocks")
    }

    def watch(self) -> Watcher:
        """Begin a file."""
        return EachFrame(["blocks"], _numbers)

    def score(self, trace: Trace, part: Part) -> dict[str, float | None]:
        """The mean over the frames looked at."""
        return {"blocks": mean(inside(trace, part), "blocks")}


def _numbers(view: View) -> tuple[float]:
    return (blockiness(view.grey()),)
