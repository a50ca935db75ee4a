"""predict, interpolate, animate, complete and extend as a person types them, and the evaluations of tasks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kinolab import video
from kinolab.cli.encode import tasks_config
from kinolab.cli.given import default_out
from kinolab.data import CacheConfig, CacheSource
from kinolab.errors import InputError
from kinolab.runtime.devices import announce, choose
from tests.cli.every import run
from tests.tiny_model import save_tiny_model, tiny_vdt

pytestmark = pytest.mark.slow  # many short ones, which take long together


@pytest.fixture(scope="module")
def vdt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vdt")
    tiny_vdt().save(folder)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    frames = np.random.default_rng(0).integers(0, 255, (9, 40, 48, 3), dtype=np.uint8)
    video.write(folder / "clip.mp4", frames, fps=8)
    video.write(folder / "stills", frames[:2], fps=8)
    mask = np.zeros((1, 40, 48, 3), np.uint8)
    mask[:, 10:20] = 255
    video.write(folder / "mask", mask, fps=8)
    return folder


COMMANDS = {
    "predict clip.mp4 --given 3": 5,
    "predict clip.mp4 --given 2 --past --frames 9 --overlap 2": 9,
    "interpolate clip.mp4 --insert 1": 17,
    "interpolate clip.mp4 --keyframes 0,-1 --frames 5": 5,
    "animate stills/00000000.png stills/00000001.png --at 0,4": 5,
    "complete clip.mp4 --box 2,2,20,20 --keep exact": 9,
    "complete clip.mp4 --mask mask --frames 5": 5,
    "extend clip.mp4 --frames 14 --overlap 2": 14,
    "predict clip.mp4 --method reconstruction --weight 1 --error pixels --given 2": 5,
    'predict clip.mp4 --given 3 -s reach=first -s guidance.scales={"given":2}': 5,
}


@pytest.mark.parametrize("line", COMMANDS)
def test_each_command_writes_its_video(
    line: str, vdt: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stills = sorted((files / "stills").iterdir())
    names = {"clip.mp4": files / "clip.mp4", "mask": files / "mask"}
    names |= {f"stills/{k:08d}.png": still for k, still in enumerate(stills)}
    words = [names.get(w, w) for w in line.split()]
    assert run(*words, "--model", vdt, "--out", tmp_path / "x.mkv", "--precision", "float32", "--seed", 3) == 0
    assert len(video.read(tmp_path / "x.mkv").frames) == COMMANDS[line]
    record = json.loads((tmp_path / "x.json").read_text())
    assert record["request"]["seed"] == 3 and record["request"]["given"]["task"] == line.split()[0]
    assert record["inputs_sha256"]
    printed = capsys.readouterr()
    assert "x.mkv" in printed.out and "Traceback" not in printed.err
    first, *others = printed.err.strip().splitlines()
    if "--mask" in line:
        assert first.startswith("sampling: mask mask: two values: 0 is given")
        first, *others = others
    if line.startswith("animate"):
        notes = [text for text in (first, *others) if text.startswith("sampling: ")]
        assert [text.split(": ", 2)[2] for text in notes] == ["48 x 40 pixels, cropped to 32 x 32"] * 2
        first, *others = [text for text in (first, *others) if text not in notes]
    assert first == announce(choose()) and all(text.startswith("warning: ") for text in others)


def test_a_request_outside_the_training_warns_in_one_line(
    vdt: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.mkv"
    assert run("predict", files / "clip.mp4", "--given", 4, "--model", vdt, "--out", out, "--count", 2) == 0
    warning = "warning: trained to predict from 1 to 3 given frames, got 4"
    assert capsys.readouterr().err.strip().splitlines() == [announce(choose()), warning]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["predict", "nothing.mp4"], "nothing.mp4"),
        (["predict", "{clip}", "--given", "5"], "1 to 4 given frames of 5, got 5"),
        (["predict", "{clip}", "--weight", "2"], "use method reconstruction"),
        (["interpolate", "{clip}"], "one of every, insert and keyframes"),
        (["interpolate", "{clip}", "--keyframes", "a"], "whole numbers with commas"),
        (["interpolate", "{clip}", "--insert", "3", "--frames", "12"], "use 9"),
        (["animate", "nothing.png"], "nothing.png"),
        (["complete", "{clip}"], "a mask or boxes"),
        (["complete", "{clip}", "--box", "1,2,3"], "got 3 numbers"),
        (["complete", "{clip}", "--box", "0,0,32,32"], "the mask is full"),
        (["complete", "{clip}", "--mask", "nothing.png"], "nothing.png"),
        (["extend", "{clip}", "--frames", "9"], "has 9 frames"),
        (["extend", "{clip}", "--loop", "--past"], "exclude each other"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    words: list[str],
    expected: str,
    vdt: Path,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [w.format(clip=files / "clip.mp4") for w in words]
    assert run(*words, "--model", vdt, "--out", "x.mp4") == 2
    error = capsys.readouterr().err
    assert expected in error and len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_evaluations_print_tables_and_write_reports(
    vdt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "physics.json"
    assert run("evaluate", "physics", "--model", vdt, "--given", "3,1", "--count", 2, "--out", out) == 0
    assert "constant velocity" in capsys.readouterr().out and json.loads(out.read_text())["protocol"]["given"] == [3, 1]
    out = tmp_path / "tasks.json"
    assert run("evaluate", "tasks", "--model", vdt, "--count", 2, "--out", out) == 0
    assert "complete, moving box" in capsys.readouterr().out
    assert len(json.loads(out.read_text())["tasks"]) == 12
    assert run("evaluate", "physics", "--model", vdt, "--weight", 3) == 2
    assert "add --method reconstruction" in capsys.readouterr().err


def test_tasks_that_a_steered_model_can_not_do_are_left_out_with_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latte = save_tiny_model(tmp_path / "latte", text=False)
    assert run("evaluate", "tasks", "--model", latte, "--count", 1, "--steps", 1) == 0
    text = capsys.readouterr().out
    assert "predict from 8 frames" in text and "left out: one frame in a latent's middle" in text


def test_encode_draws_masks_for_tasks(vdt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["encode", "world", "--count", 3, "-a", vdt, "--frames", 5, "--size", 32, "--out", tmp_path / "c"]
    assert run(*words, "--tasks", "predict=1,complete=2", "--draws", 2) == 0
    stored = CacheSource(CacheConfig(path=tmp_path / "c", split="all"))
    assert stored[2].mask is not None and stored[2].mask.shape[:2] == (2, 4)
    assert run(*words, "--tasks", "predict=x") == 2
    assert "NAME=WEIGHT" in capsys.readouterr().err
    with pytest.raises(InputError, match="a recipe without tasks"):
        tasks_config("toy-latte")
    assert tasks_config("toy-vdt").predict == 2


def test_without_a_name_each_task_writes_a_file_of_its_own(
    vdt: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ("--model", vdt, "--steps", 1, "--device", "cpu")
    assert run("predict", files / "clip.mp4", "--given", 3, *common) == 0
    assert run("animate", files / "stills" / "000000.png", *common) == 0
    assert sorted(p.name for p in tmp_path.glob("*.mp4")) == ["000000-animate.mp4", "clip-predict.mp4"]
    assert default_out({"task": "extend", "video": files / "stills"}) == Path("stills-extend.mp4")
