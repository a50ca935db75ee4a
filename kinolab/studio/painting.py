"""Masks that move: from painted key frames to a mask for every frame.

Between two key frames the shape travels with its centre of mass, and its outline changes by interpolating the signed
distances to it (Raya and Udupa, "Shape-based interpolation of multidimensional objects", 1990), each in the frame of
its own centre: two shapes that don't overlap become one that moves, and not one that fades.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kinolab import video
from kinolab.errors import InputError

SIDE = 256
"""The longer side at which shapes are interpolated, in pixels."""
PAINT = (255, 79, 163)
"""The colour of what is painted on the page."""


def mask(keys: list[dict[str, Any]], frames: int, height: int, width: int, fps: float, out: str) -> float:
    """Write the mask of every frame as a video without loss, white where something is generated; its share of all.

    keys: {frame, path} of each painted picture.

    Raises:
        InputError: where a picture can't be read, or nothing was painted.
    """
    painted = _read(keys, height, width)
    if not any(shape.any() for shape in painted.values()):
        raise InputError("nothing is painted: paint what is to be generated anew")
    made = moving(painted, frames)
    pictures = (np.repeat(each[..., None].astype(np.uint8) * 255, 3, axis=2) for each in made)
    video.write(Path(out), pictures, fps, lossless=True)
    return round(float(made.mean()), 6)


def preview(keys: list[dict[str, Any]], first: int, last: int, height: int, width: int) -> dict[str, str]:
    """What `mask` makes of the frames from `first` to `last` that lie between key frames, by their numbers: each a PNG
    (base64) that has a colour where something is generated, and none elsewhere."""
    painted = _read(keys, height, width)
    return {str(k): _png(shape) for k, shape in _between_keys(painted, first, last)}


def moving(keys: dict[int, np.ndarray], frames: int) -> np.ndarray:
    """Masks (T, H, W) from those of key frames (H, W): held before the first and behind the last."""
    order = sorted(keys)
    made = np.zeros((frames, *keys[order[0]].shape), bool)
    made[: order[0] + 1], made[order[-1] :] = keys[order[0]], keys[order[-1]]
    for k in order:
        made[k] = keys[k]
    for k, shape in _between_keys(keys, 0, frames - 1):
        made[k] = shape
    return made


def way(one: np.ndarray, other: np.ndarray) -> Callable[[float], np.ndarray]:
    """From a share of the way, 0 = the one and 1 = the other, to the mask (H, W) there.

    An empty one appears at once, and becomes at once what comes behind it.
    """
    if not one.any() or not other.any():
        return lambda share: one
    step = max(1, -(-max(one.shape) // SIDE))
    small = one[::step, ::step], other[::step, ::step]
    if step == 1 or not all(shape.any() for shape in small):
        return _way(one, other)
    at, (rows, columns) = _way(*small), one.shape
    return lambda share: np.kron(at(share), np.ones((step, step), bool)).astype(bool)[:rows, :columns]


def _way(one: np.ndarray, other: np.ndarray) -> Callable[[float], np.ndarray]:
    centres = [np.array([axis.mean() for axis in np.nonzero(shape)]) for shape in (one, other)]
    distances = [signed_distance(shape) for shape in (one, other)]

    def at(share: float) -> np.ndarray:
        here = centres[0] + share * (centres[1] - centres[0])
        moved = [_moved(found, here - centre) for found, centre in zip(distances, centres, strict=True)]
        return np.asarray((1 - share) * moved[0] + share * moved[1] < 0, bool)

    return at


def _between_keys(keys: dict[int, np.ndarray], first: int, last: int) -> Iterator[tuple[int, np.ndarray]]:
    """Number and mask of each frame from `first` to `last` that lies between two key frames."""
    for begin, end in pairwise(sorted(keys)):
        wanted = range(max(begin + 1, first), min(end - 1, last) + 1)
        if wanted:
            at = way(keys[begin], keys[end])
            yield from ((k, at((k - begin) / (end - begin))) for k in wanted)


def _read(keys: list[dict[str, Any]], height: int, width: int) -> dict[int, np.ndarray]:
    """The painted masks (H, W) by their frames."""
    return {
        int(key["frame"]): video.read_mask(Path(key["path"]), (height, width), resize="stretch").generated[0] > 0
        for key in keys
    }


def _png(shape: np.ndarray) -> str:
    picture = Image.fromarray(shape.astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, *PAINT])
    file = io.BytesIO()
    picture.save(file, "PNG", bits=1, transparency=0)
    return base64.b64encode(file.getvalue()).decode()


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
