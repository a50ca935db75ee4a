"""Videos made smaller by each filter, and larger again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from kinolab.layers.resizing import Filter, enlarge, lanczos, shrink
from tests.closeness import assert_close, assert_small

PILLOW = {"bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS, "area": Image.Resampling.BOX}
CLIP = torch.rand(2, 3, 2, 24, 18, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("name", PILLOW)
@pytest.mark.parametrize("size", [(6, 6), (8, 6)])
def test_each_antialiased_filter_is_pillows(name: str, size: tuple[int, int]) -> None:
    small = shrink(CLIP, size, name)  # type: ignore[arg-type]
    assert small.shape == (2, 3, 2, *size)
    picture = Image.fromarray(CLIP[1, 2, 1].numpy(), mode="F").resize(size[::-1], PILLOW[name])
    assert_close(small[1, 2, 1], torch.from_numpy(np.asarray(picture).copy()), 1e-5)


def test_nearest_takes_pixels_and_others_keep_what_is_even() -> None:
    assert torch.isin(shrink(CLIP, (6, 6), "nearest"), CLIP).all()
    even = torch.full((1, 3, 1, 20, 20), 0.3)
    names: tuple[Filter, ...] = ("area", "bilinear", "bicubic", "lanczos")
    for name in names:
        assert_close(shrink(even, (7, 5), name), torch.full((1, 3, 1, 7, 5), 0.3), 1e-5)
        assert_close(enlarge(shrink(even, (7, 5), name), (20, 20)), even, 1e-5)


def test_lanczos_keeps_a_slope_and_leaves_no_pattern_of_fine_stripes() -> None:
    slope, matrix = torch.linspace(0, 1, 64), lanczos(64, 16)
    assert_close((matrix @ slope)[3:-3], slope.view(16, 4).mean(1)[3:-3], 1e-5)
    stripes = torch.tensor([1.0, -1.0]).repeat(32)
    assert_small((matrix @ stripes)[3:-3], stripes, 0.03)
