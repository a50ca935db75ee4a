"""Saliency without a model: what differs from the border, and a threshold that parts two heaps of values."""

from __future__ import annotations

import pytest
import torch

from kinolab.errors import InputError
from kinolab.methods.saliency import otsu, salient
from tests.closeness import assert_same


def test_an_object_on_a_noisy_background_is_found_to_the_pixel() -> None:
    frames = 0.2 + 0.05 * torch.randn(2, 3, 2, 24, 32, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(2, 1, 2, 24, 32)
    for clip, frame, x in ((0, 0, 4), (0, 1, 8), (1, 0, 20), (1, 1, 12)):
        frames[clip, 0, frame, 6:14, x : x + 8] += 1.0
        expected[clip, 0, frame, 6:14, x : x + 8] = 1.0
    assert_same(salient(frames), expected)


def test_a_picture_of_one_colour_shows_nothing() -> None:
    frames = torch.full((1, 3, 3, 8, 8), 0.4)
    frames[:, :, :2, 2:5, 2:5] = 1.0
    with pytest.raises(InputError, match="nothing stands out from the border of frame 2"):
        salient(frames)


def test_the_threshold_lies_between_two_heaps() -> None:
    low, high = 0.1 + 0.02 * torch.rand(900), 0.7 + 0.2 * torch.rand(100)
    assert float(low.max()) <= otsu(torch.cat([low, high])) <= float(high.min())
