"""The heat map's colours are in order, follow Green's formula, and stand for the stated errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kinolab import video
from kinolab.errors import InputError
from kinolab.evaluation.heatmap import SCALE, css_gradient, cubehelix
from kinolab.reports import error_heatmap, write_heatmap
from tests.closeness import assert_within

LUMINANCE = np.array([0.30, 0.59, 0.11])


def frames(value: int) -> np.ndarray:
    return np.full((2, 4, 6, 3), value, np.uint8)


def test_the_colours_are_as_bright_as_the_value_and_never_clipped() -> None:
    values = np.linspace(0, 1, 1001)
    colours = cubehelix(values)
    assert_within(colours @ LUMINANCE, values, 1e-5, "of full brightness")
    assert (colours[0] == 0).all() and (colours[-1] == 1).all()
    assert np.ptp(colours, axis=1).max() > 0.3, "it has colours, not greys alone"


def test_no_error_is_black_the_scale_is_white_and_order_is_kept() -> None:
    assert (error_heatmap(frames(9), frames(9)) == 0).all()
    assert (error_heatmap(frames(10), frames(10 + int(SCALE))) == 255).all()
    assert (error_heatmap(frames(0), frames(255)) == 255).all(), "what is above the scale stays white"
    ramp = np.zeros((1, 1, 65, 3), np.uint8)
    ramp[0, 0] = np.arange(65)[:, None]
    bright = error_heatmap(ramp, np.zeros_like(ramp))[0, 0] @ LUMINANCE
    assert (np.diff(bright) > 0).all()
    assert_within(bright, np.arange(65) / 64 * 255, 1.5, "grey levels")


def test_the_error_is_the_root_mean_square_over_the_channels_whatever_the_sign() -> None:
    a, b = frames(100), frames(100)
    b[..., 0] += 30
    c = frames(100)
    c[..., 0] -= 30
    np.testing.assert_array_equal(error_heatmap(a, b), error_heatmap(a, c))
    grey = round(30 / 3**0.5 / 100 * 255)
    expected = (cubehelix(np.array(grey / 255)) * 255).round()
    np.testing.assert_array_equal(error_heatmap(a, b, 100.0)[0, 0, 0], expected)


def test_it_is_written_as_a_video(tmp_path: Path) -> None:
    original = np.zeros((3, 32, 32, 3), np.uint8)
    reconstruction = original.copy()
    reconstruction[1, :, 16:] = 64
    write_heatmap(tmp_path / "error.mp4", original, reconstruction, 8.0)
    shown = video.read(tmp_path / "error.mp4").frames
    assert shown.shape == original.shape
    assert shown[1, :, 20:].mean() > 240 and shown[1, :, :12].mean() < 10 and shown[0].mean() < 10


def test_mistakes_are_one_line() -> None:
    for a, b, said in (
        (frames(0), frames(0)[:1], "frames of one shape"),
        (frames(0).astype(np.float32), frames(0), "expected uint8 frames"),
    ):
        with pytest.raises(InputError, match=said):
            error_heatmap(a, b)
    with pytest.raises(InputError, match="a scale above 0"):
        error_heatmap(frames(0), frames(0), 0.0)


def test_the_legend_has_the_same_colours() -> None:
    assert css_gradient(3).startswith("linear-gradient(to right,#000000,#") and css_gradient().endswith(",#ffffff)")
