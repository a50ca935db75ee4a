"""Videos written frame by frame: any length, whole when they are stopped, made again bit for bit."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from benchmarks.streaming import memory
from kinolab import video
from kinolab.cli.generate import prompts_at
from kinolab.errors import InputError
from kinolab.generation import stream as streaming
from kinolab.generation.generate import generate, rerun
from kinolab.generation.provenance import provenance_path
from kinolab.generation.request import GenerateConfig
from tests.listening import Listening
from tests.tiny_model import save_tiny_model, tiny_causal

pytestmark = pytest.mark.slow  # many short ones, which take long together


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_causal().save(folder)
    return folder


def request(folder: Path, **values: Any) -> GenerateConfig:
    asked = {"model": str(folder), "precision": "float32", "prompts": ["a ball"], "stream": True, **values}
    return GenerateConfig.model_validate(asked)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip"])
def test_a_stream_of_any_length_is_written_and_made_again(folder: Path, tmp_path: Path, name: str) -> None:
    told = Listening()
    [path] = generate(request(folder, frames=12, prompts_at={0.75: "a box"}), tmp_path / name, events=told)
    assert told.told == [(k, 12) for k in range(1, 13)]
    assert any("frames per second" in note for note in told.notes)
    clip = video.read(path)
    assert len(clip.frames) == 12
    again, changed = rerun(path, (tmp_path / "again").with_suffix(path.suffix))
    assert changed == []
    assert (video.read(again).frames == clip.frames).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, "clip.json", again.name, "again.json"])


def test_a_stopped_stream_is_whole_as_far_as_it_goes(folder: Path, tmp_path: Path) -> None:
    told = Listening(stop_after=7)
    [path] = generate(request(folder, frames=500), tmp_path / "clip.mp4", events=told)
    assert len(video.read(path).frames) == 7
    assert json.loads(provenance_path(path).read_text())["request"]["frames"] == 7
    assert any("stopped after 7 of 500" in note for note in told.notes)
    _, changed = rerun(path, tmp_path / "again.mp4")
    assert changed == []


@pytest.mark.parametrize("at", [3, 6])  # the last frame of the first video too
def test_ctrl_c_ends_all_videos_of_a_request(folder: Path, tmp_path: Path, at: int) -> None:
    class Interrupting(Listening):
        def progress(self, done: int, total: int) -> None:
            super().progress(done, total)
            if len(self.told) == at:
                signal.raise_signal(signal.SIGINT)

    [path] = generate(request(folder, frames=6, count=3), tmp_path / "clip.mp4", events=Interrupting())
    assert path.name == "clip-0.mp4" and len(video.read(path).frames) == at
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip-0.json", "clip-0.mp4"]


def test_a_file_plays_while_it_grows(folder: Path, tmp_path: Path) -> None:
    seen: list[int] = []

    class Watched(Listening):
        def progress(self, done: int, total: int) -> None:
            if done == 40:
                [growing] = tmp_path.rglob("clip.mp4")
                seen.append(sum(1 for _ in video.until_damage(video.iter_frames(growing), [])))

    generate(request(folder, frames=41), tmp_path / "clip.mp4", events=Watched())
    assert seen and seen[0] >= 16  # all but the fragments that are still open


def test_an_error_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(streaming.video, "to_uint8", broken)
    with pytest.raises(RuntimeError, match="broken"):
        generate(request(folder, frames=9), tmp_path / "clip.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_and_its_record_stay_until_the_frames_are_made(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise RuntimeError("broken")

    [path] = generate(request(folder, frames=4), tmp_path / "clip")
    record = provenance_path(path).read_text()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.md").write_text("not to be replaced")
    with pytest.raises(InputError, match="something other than numbered images"):
        generate(request(folder, frames=4), tmp_path / "notes")
    monkeypatch.setattr(streaming.video, "to_uint8", broken)
    with pytest.raises(RuntimeError, match="broken"):
        generate(request(folder, frames=9), path)
    assert provenance_path(path).read_text() == record and len(video.read(path).frames) == 4


def test_what_can_not_be_streamed_is_refused_before_anything_is_made(folder: Path, tmp_path: Path) -> None:
    whole = save_tiny_model(tmp_path / "whole")
    tiny_causal(window=None).save(tmp_path / "unbounded")
    wrong: list[tuple[GenerateConfig, str]] = [
        (request(whole, prompts=["a ball"], frames=9), "can't stream: make a causal model of it first"),
        (request(tmp_path / "unbounded", frames=500), "a model with a window"),
        (request(folder, cache={"every": 2}), "leave cache out"),
        (request(folder, prompts_at={0: "a box"}), "a time after the beginning"),
        (request(folder, stream=False, prompts_at={1: "a box"}), "ask for a stream too"),
    ]
    for config, message in wrong:
        with pytest.raises(InputError, match=message):
            generate(config, tmp_path / "clip.mp4")
        assert not (tmp_path / "clip.mp4").exists()


def test_prompts_at_seconds_are_read() -> None:
    assert prompts_at(["5:a box", "7.5s: a blue ball: falls"]) == {5.0: "a box", 7.5: "a blue ball: falls"}
    for wrong in ("a box", "5:", "five:a box", "nan:a box"):
        with pytest.raises(InputError, match="SECOND:PROMPT"):
            prompts_at([wrong])


@pytest.mark.wide()
def test_memory_does_not_grow_with_the_length(folder: Path) -> None:
    """Ten times the frames may cost what the memory of a process happens to vary by, and no more."""
    few, many = (memory(str(folder), frames) for frames in (50, 500))
    assert many < few + 16 * 2**20
