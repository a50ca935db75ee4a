"""Windows of a request that leaves them open lie within what the model was trained on: known frames, key frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinolab import video
from kinolab.config import load_config
from kinolab.tasks import TasksConfig, outside_training
from kinolab.tasks.extend import Canvas
from kinolab.tasks.request import GivenConfig, Prepared, Shape, prepare

FOURTH = TasksConfig(unconditional=1, predict=1, interpolate=1, predict_frames=(1, 2), interpolate_every=4)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mkv"
    video.write(path, np.random.default_rng(0).integers(0, 255, (11, 16, 16, 3), dtype=np.uint8), fps=8, lossless=True)
    return path


def asked(clip: Path, frames: int | None, tasks: TasksConfig | None = FOURTH, **values: Any) -> Prepared:
    config = load_config(GivenConfig, {"video": str(clip), **values})
    return prepare(config, Shape(9, (16, 16), 8.0, 1, tasks=tasks), frames)


def filled(prepared: Prepared) -> list[tuple[list[int], list[int], str | None]]:
    """Of each window its frames, those of them that are known when it is made, and what is said of its mask."""
    canvas, found = Canvas(prepared.canvas.video, prepared.canvas.mask), []
    for frames in prepared.windows:
        made, mask = canvas.window(frames)
        known = [f for f, m in zip(frames, mask[0, 0], strict=True) if not m.any()]
        found.append((frames, known, outside_training(FOURTH, mask[0, 0])))
        canvas.put(frames, made)
    return found


def test_a_prediction_goes_on_from_as_many_frames_as_in_training(clip: Path) -> None:
    windows = filled(asked(clip, 23, task="predict"))
    assert [known for _, known, _ in windows] == [[0, 1], [7, 8], [14, 15]]
    assert all(note is None for *_, note in windows)
    usual = filled(asked(clip, 23, TasksConfig(), task="predict"))
    assert usual[0][1] == list(range(8)) and usual[1][1] == [6, 7, 8]
    chosen = filled(asked(clip, 23, task="predict", given=1, overlap=4))
    assert [known for _, known, _ in chosen][:2] == [[0], [5, 6, 7, 8]]


def test_a_clip_is_extended_from_its_last_frames_and_what_is_too_much_is_left_out(clip: Path) -> None:
    prepared = asked(clip, 21, task="extend")  # the clip has 11 frames
    windows = filled(prepared)
    assert [(frames[0], known) for frames, known, _ in windows] == [(9, [9, 10]), (16, [16, 17])]
    assert all(note is None for *_, note in windows) and windows[-1][0][-1] == 24
    assert prepared.shown == slice(0, 21) and prepared.canvas.video.shape[2] == 25
    usual = asked(clip, 21, TasksConfig(), task="extend")
    assert usual.shown == slice(0, 21) and usual.canvas.video.shape[2] == 21


def test_windows_between_key_frames_begin_with_one(clip: Path) -> None:
    windows = filled(asked(clip, None, task="interpolate", insert=3))
    assert [frames[0] for frames, *_ in windows] == [0, 8, 16, 24, 32]
    assert all(known == frames[::4] and note is None for frames, known, note in windows)
    usual = filled(asked(clip, None, TasksConfig(interpolate=1), task="interpolate", insert=3))
    assert [frames[0] for frames, *_ in usual][:3] == [0, 6, 12]


def test_key_frames_first_then_what_lies_between_them(clip: Path) -> None:
    """T -> 4T twice: from one window's frames, every fourth of a long clip, to all of them."""
    windows = filled(asked(clip, 65, task="extend", stride=4))
    far = [w for w in windows if w[0][1] - w[0][0] == 4]
    near = [w for w in windows if w[0][1] - w[0][0] == 1]
    assert windows == [*far, *near] and {f for frames, *_ in far for f in frames} == set(range(0, 65, 4))
    assert [frames[0] for frames, *_ in near] == list(range(0, 64, 8))
    untouched = [w for w in near if w[0][0] > 10]  # the clip itself is known whole
    assert all(known == frames[::4] and note is None for frames, known, note in untouched) and len(untouched) == 6


@pytest.mark.parametrize(("task", "total", "starts"), [("animate", 24, [0, 8, 16]), ("extend", 24, [10, 18])])
def test_a_model_that_begins_with_one_frame_makes_any_length_of_such_windows(
    clip: Path, task: str, total: int, starts: list[int]
) -> None:
    given: dict[str, Any] = {"images": [str(clip)]} if task == "animate" else {"video": str(clip)}
    config = load_config(GivenConfig, {"task": task, "overlap": 1, **given})
    prepared = prepare(config, Shape(9, (16, 16), 8.0, 1, from_one=True), total)
    windows = filled(prepared)
    assert [frames[0] for frames, _, _ in windows] == starts and all(len(frames) == 9 for frames, _, _ in windows)
    assert [known for _, known, _ in windows] == [[start] for start in starts]
    assert prepared.shown == slice(0, total) and windows[-1][0][-1] >= total - 1
