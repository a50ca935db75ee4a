"""Near duplicates among clips: a copy that was shrunk and compressed is found, once read it is read no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kinolab import video
from kinolab.data.curation import scoring
from kinolab.studio.likeness import LEAST, alike
from kinolab.studio.project import HIDDEN

pytestmark = pytest.mark.slow


def scene(seed: int, size: int = 96, frames: int = 8) -> np.ndarray:
    """Squares on a ground, drawn from a seed, that move."""
    random = np.random.default_rng(seed)
    pictures = np.full((frames, size, size, 3), random.integers(0, 255, 3), np.uint8)
    for _ in range(12):
        colour, (x, y), step = random.integers(0, 255, 3), random.integers(0, size - 16, 2), random.integers(-2, 3)
        for k in range(frames):
            pictures[k, y : y + 16, max(0, x + step * k) : max(0, x + step * k) + 16] = colour
    return pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(3):
        video.write(tmp_path / f"clip-{k}.mp4", scene(k), 8.0)
    small = [np.asarray(Image.fromarray(frame).resize((64, 64))) for frame in scene(1)]
    video.write(tmp_path / "shrunk.mp4", small, 8.0, quality=40)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.mp4"))


def test_a_shrunk_copy_is_like_the_clip_that_it_was_made_of(folder: Path) -> None:
    found = alike(str(folder), names(folder), seconds=60)
    assert found.keys() == {"alike", "done", "total"} and found["done"] == found["total"] == 5
    assert list(found["alike"]) == ["shrunk.mp4"]
    assert found["alike"]["shrunk.mp4"]["of"] == "clip-1.mp4"
    assert LEAST <= found["alike"]["shrunk.mp4"]["share"] <= 1


def test_clips_are_read_bit_by_bit_once_and_forgotten_when_they_are_gone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call reads at least one further clip, also where one can't be read; and none twice."""
    read: list[str] = []
    trace = scoring.trace

    def noted(path: Path, signals: Any) -> Any:
        read.append(path.name)
        return trace(path, signals)

    monkeypatch.setattr(scoring, "trace", noted)
    counts = [alike(str(folder), names(folder), seconds=0)["done"] for _ in range(5)]
    assert counts == [1, 2, 3, 4, 5] and sorted(read) == names(folder)
    assert list(alike(str(folder), names(folder))["alike"]) == ["shrunk.mp4"] and len(read) == 5
    (folder / "clip-1.mp4").unlink()
    assert alike(str(folder), names(folder))["alike"] == {} and len(read) == 5
    assert len(list((folder / HIDDEN / "alike").glob("*/*.safetensors"))) == 3
