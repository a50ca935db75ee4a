"""Videos that 0.1.0 made are made again from the records beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.adapter import find
from tests.net.conftest import Command
from tests.net.make import VIDEOS

pytestmark = pytest.mark.slow  # many short ones, which take long together

LEVELS = 0.25
"""Of 255, by which frames may differ in the mean on another processor: some pixels are rounded to the next level, and
lossy codecs spread that. Other noise makes differences of 0.5 or more."""
NAMES = [name for name in VIDEOS if name != "generate-label.mp4"] + ["generate-label-0.mp4", "generate-label-1.mp4"]


def frames(path: Path) -> np.ndarray:
    """The decoded frames: (T, H, W, 3)."""
    return np.asarray(find("read")(path).frames).astype(np.float64)


def known_then(now: dict[str, Any], then: dict[str, Any]) -> dict[str, Any]:
    """A record's fields that there were then, at any depth: later versions have more."""
    return {
        k: known_then(now[k], v) if isinstance(v, dict) and isinstance(now.get(k), dict) else now.get(k)
        for k, v in then.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_video_is_made_again(name: str, here: Path, kinolab: Command) -> None:
    path = here / "videos" / name
    again = path.with_name("again" + path.suffix)
    done = kinolab("rerun", f"videos/{name}", "--out", f"videos/again{path.suffix}")
    # 1 = some frame or a version differs, which on other processors and later versions they may.
    assert done.status in (0, 1) and str(Path("videos") / again.name) in done.out, done.err
    assert ("identical" in done.out) == (done.status == 0)
    expected, found = frames(path), frames(again)
    assert found.shape == expected.shape
    assert abs(found - expected).mean() <= LEVELS
    # It is a video that shows something, and not the same in every frame or place.
    assert expected.std() > 100 * LEVELS
    then = json.loads(path.with_name(path.stem + ".json").read_text(encoding="utf-8"))
    now = json.loads(again.with_name("again.json").read_text(encoding="utf-8"))
    assert now["model_sha256"] == then["model_sha256"] and now["inputs_sha256"] == then["inputs_sha256"]
    assert known_then(now["request"], then["request"]) == then["request"]


def test_a_record_is_enough(here: Path, kinolab: Command) -> None:
    (here / "videos" / "past.mkv").rename(here / "videos" / "past-then.mkv")
    done = kinolab("rerun", "videos/past.json", "--out", "videos/new.mkv")
    assert done.status in (0, 1), done.err
    assert abs(frames(here / "videos" / "new.mkv") - frames(here / "videos" / "past-then.mkv")).mean() <= LEVELS


@pytest.mark.parametrize("name", ["extend.mkv", "predict.mp4", "steered.mp4", "generate-text.mp4"])
def test_other_noise_would_be_noticed(name: str, here: Path, kinolab: Command) -> None:
    path = here / "videos" / name
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    record["request"]["seed"] += 1
    path.with_suffix(".json").write_text(json.dumps(record), encoding="utf-8")
    assert kinolab("rerun", f"videos/{name}", "--out", f"videos/again{path.suffix}").status == 1
    assert abs(frames(path) - frames(path.with_name("again" + path.suffix))).mean() > 1.5 * LEVELS


def test_what_changed_since_is_refused(here: Path, kinolab: Command) -> None:
    clip = here / "clips" / "clip-000000.mp4"
    whole = clip.read_bytes()
    clip.write_bytes((here / "clips" / "clip-000001.mp4").read_bytes())
    done = kinolab("rerun", "videos/predict.mp4", "--out", "videos/new.mp4")
    assert done.status == 2 and "clip-000000.mp4" in done.err
    clip.write_bytes(whole)
    weights = here / "models" / "vdt" / "denoiser.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    done = kinolab("rerun", "videos/predict.mp4", "--out", "videos/new.mp4")
    assert done.status == 2 and "models/vdt" in done.err
    assert not (here / "videos" / "new.mp4").exists()
