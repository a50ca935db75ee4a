"""Where a reconstruction errs: the error of every pixel as a colour that gets brighter with it.

The colours are a cubehelix (Green 2011, "A colour scheme for the display of astronomical intensity images", Bulletin of
the Astronomical Society of India 39, 289): a helix about the grey diagonal of the RGB cube, whose luminance
0.30 R + 0.59 G + 0.11 B is equal to the value itself, so that the order of errors can be read without colour too.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from kinolab import video
from kinolab.errors import InputError

SCALE = 64.0
"""Error, in values of 255, that has the brightest colour: a fixed one, so that two heat maps can be compared."""
START, ROTATIONS, HUE = 0.2, 0.5, 1.4
"""The helix: from violet (1 is red, 2 green, 0 and 3 blue) over red to yellow, about as strong as the cube allows."""


def cubehelix(values: np.ndarray) -> np.ndarray:
    """Values (...) in [0, 1] -> colours (..., 3) in [0, 1]; equation 2 of Green (2011), with gamma 1.

    0 is black and 1 is white.
    """
    values = np.clip(np.asarray(values, np.float64), 0.0, 1.0)
    angle = 2 * math.pi * (START / 3 + 1 + ROTATIONS * values)
    amplitude = HUE * values * (1 - values) / 2
    red = values + amplitude * (-0.14861 * np.cos(angle) + 1.78277 * np.sin(angle))
    green = values + amplitude * (-0.29227 * np.cos(angle) - 0.90649 * np.sin(angle))
    blue = values + amplitude * (1.97294 * np.cos(angle))
    return np.clip(np.stack([red, green, blue], axis=-1), 0.0, 1.0)


def error_heatmap(original: np.ndarray, reconstruction: np.ndarray, scale: float = SCALE) -> np.ndarray:
    """The error of every pixel as colours: (T, H, W, 3) uint8 twice -> (T, H, W, 3) uint8.

    The error of a pixel is the root mean square over its three values (its square is what PSNR averages), from 0 to
    255; `scale` and everything above it is white, no error is black.

    Raises:
        InputError: for frames of different shapes or not uint8, or a scale not above 0.
    """
    for frames in (original, reconstruction):
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise InputError(f"heat map: expected uint8 frames (T, H, W, 3), got {frames.dtype} {frames.shape}")
    if original.shape != reconstruction.shape:
        raise InputError(f"heat map: expected frames of one shape, got {original.shape} and {reconstruction.shape}")
    if not scale > 0:
        raise InputError(f"heat map: expected a scale above 0, got {scale}")
    colours = (cubehelix(np.linspace(0, 1, 256)) * 255).round().astype(np.uint8)
    picture = np.empty_like(original)
    for t, (a, b) in enumerate(zip(original, reconstruction, strict=True)):  # frame by frame: floats are four times
        error = np.sqrt(np.square(a.astype(np.float32) - b.astype(np.float32)).mean(-1))
        picture[t] = colours[np.clip(error * (255 / scale), 0, 255).round().astype(np.uint8)]
    return picture


def write_heatmap(
    path: Path, original: np.ndarray, reconstruction: np.ndarray, fps: float, scale: float = SCALE
) -> None:
    """Write the error as a video; the format is chosen by the ending (.mp4 for a report)."""
    video.write(path, error_heatmap(original, reconstruction, scale), fps, quality=95)


def css_gradient(stops: int = 9) -> str:
    """The colours from no error to the scale, as a CSS gradient from left to right."""
    colours = (cubehelix(np.linspace(0, 1, stops)) * 255).round().astype(int)
    return "linear-gradient(to right," + ",".join(f"#{r:02x}{g:02x}{b:02x}" for r, g, b in colours.tolist()) + ")"
