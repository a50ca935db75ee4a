"""Letterbox and pillarbox: black or plain bars at the edges that stay through the clip, and what to crop for them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from kinolab.data.curate.frames import EachFrame, FrameConfig, FrameSignal, Part, Score, Trace, View, Watcher, inside

SIDES = ("top", "bottom", "left", "right")


class BarsConfig(FrameConfig):
    """What a bar is."""

    darkest: float = Field(40.0, ge=0, le=255)
    """Grey value of 255 that a bar has at most."""
    even: float = Field(4.0, ge=0)
    """Standard deviation of grey values along a line of a bar, at most."""


def bars(grey: np.ndarray, darkest: float, even: float) -> tuple[float, float, float, float]:
    """Shares of height and width that are bars at the top, bottom, left and right of a grey picture (H, W).

    A picture that is dark all over has none.
    """
    found = []
    for lines in (grey, grey.T):
        dark = (lines.mean(1) <= darkest) & (lines.std(1) <= even)
        if dark.all():
            return 0.0, 0.0, 0.0, 0.0
        light = np.flatnonzero(~dark)
        found += [light[0] / len(dark), (len(dark) - 1 - light[-1]) / len(dark)]
    return found[0], found[1], found[2], found[3]


class Bars(FrameSignal):
    """Bars of a clip."""

    Config = BarsConfig
    scores: ClassVar[dict[str, Score]] = {
        "bars": Score("share", "of the picture that is black bars in every frame looked at")
    }

    def watch(self) -> Watcher:
        """Begin a file."""
        return EachFrame(SIDES, self._numbers)

    def _numbers(self, view: View) -> tuple[float, ...]:
        grey = view.grey()
        if grey.mean() <= self.config.darkest / 2:
            return (1.0,) * 4  # a black frame, as in a fade, says nothing about bars
        return bars(grey, self.config.darkest, self.config.even)

    def score(self, trace: Trace, part: Part) -> dict[str, float | None]:
        """What all frames have as bars."""
        crop = self.crop(trace, part)
        return {"bars": None if crop is None else 1 - crop[2] * crop[3]}

    def crop(self, trace: Trace, part: Part) -> tuple[float, float, float, float] | None:
        """Left, top, width and height of what is no bar, as shares of the picture; None where nothing was seen."""
        found = inside(trace, part)
        if not len(found["time"]):
            return None
        top, bottom, left, right = (float(found[side].min()) for side in SIDES)
        if top >= 1:  # black throughout
            return 0.0, 0.0, 1.0, 1.0
        return left, top, 1 - left - right, 1 - top - bottom
