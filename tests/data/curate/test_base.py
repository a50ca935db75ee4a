"""Signals about a clip: a number each, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinolab.data.curate.base import Looked, asked
from kinolab.tables import SIGNALS


def looked(**values: Any) -> Looked:
    clip = Looked(Path("a.mp4"), (np.arange(20) / 10).tolist(), (64, 64), (64, 64))
    return replace(clip, **values)


def said(clip: Looked) -> list[str]:
    return [note for _, _, notes in asked(clip, reading=False) for note in notes]


def value(name: str, clip: Looked) -> float | None:
    return SIGNALS.get(name)().value(clip)


@pytest.mark.parametrize(
    ("stored", "size", "resize", "expected"),
    [
        ((720, 1280), (256, 256), "crop", ["crop loses 44% of the picture"]),
        ((720, 1280), (256, 256), "pad", ["44% of the window is padding"]),
        ((720, 1280), (256, 256), "stretch", ["stretched by 1.8"]),
        ((256, 256), (256, 256), "crop", []),
        ((480, 512), (256, 256), "crop", []),
        ((144, 176), (288, 352), "crop", ["176x144 enlarged 2 times"]),
    ],
)
def test_what_the_picture_loses(
    stored: tuple[int, int], size: tuple[int, int], resize: str, expected: list[str]
) -> None:
    assert said(looked(stored=stored, used=size, resize=resize)) == expected


def test_numbers() -> None:
    wide = looked(stored=(720, 1280), used=(256, 256))
    assert value("enlarged", wide) == pytest.approx(256 / 720)
    assert value("fitted", wide) == pytest.approx(1 - 720 / 1280)
    assert value("rate", looked()) == pytest.approx(10) and value("regular", looked()) == 0
    gap = looked(times=np.delete(np.arange(20) / 10, [5, 6, 7]).tolist())
    assert value("regular", gap) == 3
    assert said(gap) == ["3 frames missing, the first after 0.40 s, frames taken as stored"]
    assert value("scenes", looked()) is None and value("scenes", looked(cuts=(4, 4, 90))) == 2
    assert value("remarks", looked(remarks=["a", "b"])) == 2
    one = looked(times=[0.0], image=True, remarks=["combed"])
    assert value("rate", one) is None and value("regular", one) is None and said(one) == []


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (None, []),
        (10.0, []),
        (10.05, ["10 fps taken as 10.05"]),
        (5.0, ["re-timed from 10 to 5 fps: 1 of 2 frames used"]),
        (25.0, ["re-timed from 10 to 25 fps: frames repeat"]),
    ],
)
def test_another_rate_is_said(fps: float | None, expected: list[str]) -> None:
    assert said(looked(fps=fps)) == expected
