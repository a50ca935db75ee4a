"""What the metrics of clips accept."""

from __future__ import annotations

import pytest
import torch

from kinolab.errors import InputError
from kinolab.metrics.clips import ClipScores, Protocol, unit_pair, unit_pixels
from tests.closeness import assert_close


class Brightness(ClipScores):
    name = "brightness"

    def update(self, video: torch.Tensor) -> None:
        self._add(unit_pixels(video).mean((1, 2, 3, 4)).tolist(), video)

    def _settings(self) -> Protocol:
        return {"pixels": "0..1"}


def test_a_score_is_the_mean_over_clips_with_its_interval_and_sizes() -> None:
    metric = Brightness()
    for frames, level in ((2, -1.0), (5, 0.0), (5, 1.0)):
        metric.update(torch.full((1, 3, frames, 8, 6), level))
    value = metric.compute()
    assert metric.per_clip == [0.0, 0.5, 1.0] and (value.value, value.count) == (0.5, 3)
    assert value.protocol == {
        "metric": "brightness", "average": "clips", "size": "8x6", "frames": "2, 5", "pixels": "0..1",
    }  # fmt: skip
    assert value.interval is not None and value.interval.low < 0.5 < value.interval.high


def test_bytes_are_the_same_clips_as_floats() -> None:
    grey = torch.randint(0, 256, (1, 3, 2, 8, 8), dtype=torch.uint8)
    assert_close(unit_pixels(grey), unit_pixels(grey.float() / 127.5 - 1))
    assert unit_pixels(torch.full((1, 3, 1, 4, 4), 3.0)).eq(1).all()


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (torch.zeros(3, 2, 8, 8), r"\(B, 3, T, H, W\)"),
        (torch.zeros(1, 3, 0, 8, 8), r"\(B, 3, T, H, W\)"),
        (torch.zeros(1, 3, 2, 8, 8, dtype=torch.int64), "int64"),
        (torch.full((1, 3, 2, 8, 8), torch.nan), "not finite"),
        (torch.zeros(1, 3, 1, 8, 8), "at least 2 frames, got 1"),
    ],
)
def test_wrong_clips_are_refused_in_one_line(video: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        unit_pixels(video, frames=2)
    assert "\n" not in str(error.value)


def test_a_pair_of_different_clips_is_refused() -> None:
    x = torch.zeros(1, 3, 2, 8, 8)
    with pytest.raises(InputError, match="one shape and kind"):
        unit_pair(x, x[:, :, :1])
    with pytest.raises(InputError, match="one shape and kind"):
        unit_pair(x, x.to(torch.uint8))


def test_no_clips_no_value() -> None:
    with pytest.raises(InputError, match="brightness has seen no clips"):
        Brightness().compute()
