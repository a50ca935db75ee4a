"""A clip of an image model from request to file and back: provenance, rerun, masks, events, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kinolab import video
from kinolab.contracts.events import Silent
from kinolab.errors import InputError, Stopped
from kinolab.generation.generate import generate, rerun
from kinolab.generation.saliency import read_saliency, with_saliency
from kinolab.methods import Text2VideoZero, Text2VideoZeroConfig
from tests.closeness import assert_same
from tests.tiny_model import tiny_image_model

TIMES = {"t0": 0.5, "t1": 0.8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "image"
    tiny_image_model().save(path)
    return path


def mask_file(path: Path) -> Path:
    picture = np.zeros((16, 16), np.uint8)
    picture[4:9, 2:8] = 255
    Image.fromarray(picture).save(path)
    return path


def asked(folder: Path, **fields: Any) -> dict[str, Any]:
    method = {"motion": [4, 0], **TIMES, **fields.pop("method", {})}
    return {"model": str(folder), "prompts": ["a red ball"], "frames": 4, "precision": "float32",
            "methods": {"text2video_zero": method}, **fields}  # fmt: skip


@pytest.mark.slow
def test_a_clip_is_made_again_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    values = asked(folder, method={"smooth": 0.5, "grow": 1}, saliency=mask_file(tmp_path / "mask.png"))
    (made,) = generate(values, tmp_path / "clip.mkv", events=lambda done, total: told.append((done, total)))
    frames = [frame.image for frame in video.iter_frames(made)]
    assert len(frames) == 4 and not np.array_equal(frames[0], frames[1])
    assert told == [(k, told[0][1]) for k in range(1, len(told) + 1)] and len(told) == told[0][1]
    record = json.loads((tmp_path / "clip.json").read_text())
    assert record["request"]["methods"]["text2video_zero"]["motion"] == [4.0, 0.0]
    assert [Path(path).name for path in record["inputs_sha256"]] == ["mask.png"]
    again, changed = rerun(made, tmp_path / "again.mkv")
    assert changed == []
    assert_same(np.stack([frame.image for frame in video.iter_frames(again)]), np.stack(frames))
    mask_file(tmp_path / "mask.png").write_bytes(b"other")
    with pytest.raises(InputError, match=r"mask\.png, which was given, has changed since"):
        rerun(made, tmp_path / "third.mkv")


@pytest.mark.slow
def test_a_mask_smooths_otherwise_than_none(folder: Path, tmp_path: Path) -> None:
    mask = mask_file(tmp_path / "mask.png")
    ways: list[dict[str, Any]] = [{}, {"method": {"smooth": 0.5, "grow": 1}, "saliency": mask}]
    clips = []
    for number, fields in enumerate(ways):
        (path,) = generate(asked(folder, **fields), tmp_path / f"{number}.mkv")
        clips.append(np.stack([frame.image for frame in video.iter_frames(path)]))
    assert_same(clips[0][0], clips[1][0])
    assert not np.array_equal(clips[0][1:], clips[1][1:])


class Impatient(Silent):
    """Asks to stop after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    @property
    def stopping(self) -> bool:
        return self.left <= 0

    def progress(self, done: int, total: int) -> None:
        self.left -= 1


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.slow
def test_it_stops_in_any_of_its_walks_and_leaves_nothing(folder: Path, tmp_path: Path, steps: int) -> None:
    with pytest.raises(Stopped):
        generate(asked(folder, method={"chunk": 2}), tmp_path / "clip.mkv", events=Impatient(steps))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frames": None}, "makes a clip, and 1 frame is asked for: use --frames"),
        ({"model": "world-text", "frames": 9}, "models time itself; expected an image model"),
        ({"method": {"motion": 3}}, "expected two numbers, pixels to the right and down"),
        ({"method": {"motion": [3, 0, 1]}}, "expected two numbers"),
        ({"saliency": "mask"}, "a mask of what is salient is for smoothing the background: set smooth"),
        ({"saliency": "mask", "methods": {}}, "saliency is a mask for text2video_zero's smoothing"),
        ({"saliency": "nowhere.png", "method": {"smooth": 0.5}}, "no such file"),
        ({"reach": "all"}, "all say which frames are read"),
    ],
)
@pytest.mark.slow
def test_what_cannot_be_is_one_line(folder: Path, tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    if fields.get("saliency") == "mask":
        fields = fields | {"saliency": mask_file(tmp_path / "mask.png")}
    with pytest.raises(InputError, match=message) as error:
        generate(asked(folder, **fields), tmp_path / "clip.mkv")
    assert "\n" not in str(error.value) and not (tmp_path / "clip.mkv").exists()


def test_a_mask_is_one_picture_or_one_for_each_frame(tmp_path: Path) -> None:
    mask = read_saliency(mask_file(tmp_path / "mask.png"), 4, 8.0)
    assert tuple(mask.shape) == (1, 1, 1, 16, 16) and float(mask.sum()) == 30.0
    video.write(tmp_path / "two.mkv", np.zeros((2, 16, 16, 3), np.uint8), fps=8.0, lossless=True)
    with pytest.raises(InputError, match="has 2 frames at 8 fps, and 4 are made; give 1, or as many"):
        read_saliency(tmp_path / "two.mkv", 4, 8.0)
    smooth = Text2VideoZero(Text2VideoZeroConfig(smooth=0.5))
    (found,) = with_saliency([smooth], tmp_path / "mask.png", 4, 8.0)
    assert isinstance(found, Text2VideoZero) and found.saliency is not None and smooth.saliency is None
