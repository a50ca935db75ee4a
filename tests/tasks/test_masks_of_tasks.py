"""The masks that requests make, closed forms and errors."""

from __future__ import annotations

import pytest
import torch

from kinolab.errors import InputError
from kinolab.tasks import box_mask, every_nth, keyframe_mask, past_mask, picture_mask, place_images, predict_mask


def given(mask: torch.Tensor) -> list[int]:
    """The frames that are given whole."""
    return (mask == 0).flatten(1).all(1).nonzero().flatten().tolist()


def test_prediction_and_its_mirror() -> None:
    assert given(predict_mask(6, 4, 4, 2)) == [0, 1] and given(past_mask(6, 4, 4, 2)) == [4, 5]
    for count in (0, 6, 7):
        with pytest.raises(InputError, match="1 to 5 given frames of 6"):
            predict_mask(6, 4, 4, count)


def test_keyframes() -> None:
    assert given(keyframe_mask(9, 4, 4, every_nth(9, 4))) == [0, 4, 8]
    assert given(keyframe_mask(9, 4, 4, [-1, 2, 2])) == [2, 8]
    with pytest.raises(InputError, match="keyframe 9 is outside"):
        keyframe_mask(9, 4, 4, [9])
    with pytest.raises(InputError, match="at least one"):
        keyframe_mask(9, 4, 4, [])
    with pytest.raises(InputError, match="nothing is left"):
        keyframe_mask(3, 4, 4, range(3))
    with pytest.raises(InputError, match="every 2nd"):
        every_nth(9, 1)


def test_images_stand_where_they_are_put() -> None:
    first, last = torch.full((3, 2, 2), 0.25), torch.full((3, 2, 2), -0.5)
    video, mask = place_images([first, last], [0, -1], 5)
    assert given(mask) == [0, 4] and torch.equal(video[:, 0], first) and torch.equal(video[:, 4], last)
    assert not video[:, 1:4].any()
    with pytest.raises(InputError, match="same frame"):
        place_images([first, last], [4, -1], 5)
    with pytest.raises(InputError, match="position for each"):
        place_images([first], [0, 1], 5)
    with pytest.raises(InputError, match="outside"):
        place_images([first], [7], 5)


def test_boxes_and_pictures() -> None:
    mask = box_mask(2, 4, 6, [(1, 0, 3, 2), (5, 3, 6, 4)])
    expected = torch.zeros(4, 6)
    expected[:2, 1:3] = 1
    expected[3, 5] = 1
    assert torch.equal(mask[0], expected) and torch.equal(mask[1], expected)
    for box in ((0, 0, 7, 2), (3, 0, 3, 2), (-1, 0, 2, 2)):
        with pytest.raises(InputError, match="LEFT,TOP,RIGHT,BOTTOM"):
            box_mask(2, 4, 6, [box])
    with pytest.raises(InputError, match="no box"):
        box_mask(2, 4, 6, [])
    picture = torch.tensor([[[0.0, 0.4], [0.6, 1.0]]])
    assert torch.equal(picture_mask(picture, 3), torch.tensor([[0.0, 0], [1, 1]]).expand(3, -1, -1))
    with pytest.raises(InputError, match="1 or 3 frames"):
        picture_mask(torch.zeros(2, 2, 2), 3)
