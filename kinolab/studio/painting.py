"""Masks that move: from painted key frames to a mask for every frame.

Between two key frames the shape travels with its centre of mass, and its outline changes by interpolating the signed
distances to it (Raya and Udupa, "Shape-based interpolation of multidimensional objects", 1990), each in the frame of
its own centre: two shapes that don't overlap become one that moves, and not one that fades.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from kinolab import video
from kinolab.errors import InputError

SIDE = 256
"""The longer side at which shapes are interpolated, in pixels."""


def mask(keys: list[dict[str, Any]], frames: int, height: int, width: int, fps: float, out: str) -> float:
    """Write the mask of every frame as a video without loss, white where something is generated; its share of all.

    keys: {frame, path} of each painted picture.

    Raises:
        InputError: where a picture can't be read, or nothing was painted.
    """
    painted = {
        int(key["frame"]): video.read_mask(Path(key["path"]), (height, width), resize="stretch").generated[0] > 0
        for key in keys
    }
    if not any(shape.any() for shape in painted.values()):
        raise InputError("nothing is painted: paint what is to be generated anew")
    made = moving(painted, frames)
    pictures = (np.repeat(each[..., None].astype(np.uint8) * 255, 3, axis=2) for each in made)
    video.write(Path(out), pictures, fps, lossless=True)
    return round(float(made.mean()), 6)


def moving(keys: dict[int, np.ndarray], frames: int) -> np.ndarray:
    """Masks (T, H, W) from those of key frames (H, W): held before the first and behind the last."""
    order = sorted(keys)
    made = np.zeros((frames, *keys[order[0]].shape), bool)
    made[: order[0] + 1], made[order[-1] :] = keys[order[0]], keys[order[-1]]
    for begin, end in pairwise(order):
        for k in range(begin, end):
            made[k] = between(keys[begin], keys[end], (k - begin) / (end - begin))
    return made


def between(one: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """A mask (H, W) on the way from one to another; share: 0 = the one, 1 = the other. An empty one appears at once."""
    if share == 0 or not one.any() or not other.any():
        return one
    step = max(1, -(-max(one.shape) // SIDE))
    small = one[::step, ::step], other[::step, ::step]
    if step > 1 and all(shape.any() for shape in small):
        grown = np.kron(_between(*small, share), np.ones((step, step), bool))
        return np.asarray(grown[: one.shape[0], : one.shape[1]], bool)
    return _between(one, other, share)


def _between(one: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    centres = [np.array([axis.mean() for axis in np.nonzero(shape)]) for shape in (one, other)]
    here = centres[0] + share * (centres[1] - centres[0])
    distances = [_moved(signed_distance(s), here - c) for s, c in zip((one, other), centres, strict=True)]
    return np.asarray((1 - share) * distances[0] + share * distances[1] < 0, bool)


def signed_distance(shape: np.ndarray) -> np.ndarray:
    """Distance (H, W) in pixels from each pixel's middle to the outline of a mask, negative inside."""
    return distance(shape) - distance(~shape) + np.where(shape, 0.5, -0.5)


def distance(shape: np.ndarray) -> np.ndarray:
    """Distance (H, W) from each pixel to the nearest one of a mask, exactly, one axis after the other (Felzenszwalb and
    Huttenlocher, 2012, equation 1); where the mask is empty, more than any distance in it."""
    far = float(sum(shape.shape))
    squared = np.where(shape, 0.0, far * far)
    for _ in range(2):
        places = np.arange(squared.shape[0])
        apart = (places[:, None] - places[None, :]) ** 2.0
        # (H, W) -> for each row the least over all rows; turned, so that the second round goes over columns
        squared = np.stack([(apart[k][:, None] + squared).min(0) for k in places]).T
    return np.sqrt(squared)


def _moved(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Values (H, W) moved by whole pixels; what comes in from outside has the value of the nearest edge."""
    rows, columns = (
        np.clip(np.arange(size) - round(float(step)), 0, size - 1) for size, step in zip(values.shape, by, strict=True)
    )
    return values[np.ix_(rows, columns)]
