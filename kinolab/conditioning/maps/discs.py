"""Paths of points drawn as discs on black: what a trajectory map shows.

Pixel j covers [j, j + 1]; positions are (x, y) in pixels, y down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RADIUS = 1 / 20
"""Of a disc, as a share of the shorter side: it tells where, and not how large."""


@dataclass(frozen=True, eq=False)
class Path:
    """One point through a clip: its colour in [0, 1], and its places (T, 2) in pixels, NaN where it isn't there."""

    colour: tuple[float, float, float]
    places: np.ndarray


def draw_paths(paths: Sequence[Path], frames: int, size: tuple[int, int], radius: float | None = None) -> np.ndarray:
    """Frames (T, H, W, 3) float32 in [0, 1] with a disc at every place, later paths above earlier ones.

    radius: in pixels; none = `RADIUS` of the shorter side. Rims are smoothed over one pixel.
    """
    height, width = size
    r = RADIUS * min(size) if radius is None else radius
    y, x = np.mgrid[0:height, 0:width] + 0.5
    canvas = np.zeros((frames, height, width, 3), np.float32)
    for path in paths:
        for t, (px, py) in enumerate(path.places[:frames]):
            if np.isfinite(px) and np.isfinite(py):
                cover = np.clip(r + 0.5 - np.hypot(x - px, y - py), 0, 1)[..., None]
                canvas[t] = canvas[t] * (1 - cover) + cover * np.asarray(path.colour)
    return canvas


def between(points: Sequence[Sequence[float]], frames: int, size: tuple[int, int]) -> np.ndarray:
    """Places (T, 2) in pixels of a path that goes straight through points, evenly in time; points are fractions of
    width and height."""
    keys = np.asarray(points, float) * (size[1], size[0])
    at = np.linspace(0, len(keys) - 1, frames) if len(keys) > 1 else np.zeros(frames)
    return np.stack([np.interp(at, np.arange(len(keys)), keys[:, k]) for k in (0, 1)], 1)
