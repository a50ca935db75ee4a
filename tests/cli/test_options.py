"""The device of every command: one option, one default, one line about what was taken, and one about what can't be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer

from kinolab.cli import COMMANDS, build
from kinolab.cli.options import DEVICE_HELP
from kinolab.generation.provenance import read_provenance
from kinolab.runtime.devices import announce, choose
from tests.cli.every import commands, run
from tests.stand_in_device import StandInDevice
from tests.tiny_model import save_tiny_model

ROOT = Path(__file__).parents[2]
BY_ITSELF = {"distill", "fit", "train", "plan", "rerun"}
"""What else decides where these run: the recipe, the record beside a video."""


def test_every_device_is_the_same_option_and_auto_by_default() -> None:
    found = {}
    for name, command in commands(typer.main.get_command(build(list(COMMANDS)))):
        for parameter in command.params:
            if "--device" in parameter.opts:
                found[name] = parameter.default
                assert str(parameter.help).startswith(DEVICE_HELP), name
    assert len(found) >= 18 and {"compare", "demo", "encode", "evaluate world", "extend", "tune", "vbench"} <= set(
        found
    )
    assert {name for name, default in found.items() if default is None} == BY_ITSELF
    assert {default for name, default in found.items() if name not in BY_ITSELF} == {"auto"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "generate hat --model MODEL", "predict CLIP --model MODEL", "reconstruct CLIP -a MODEL", "demo --out OUT",
        "encode world -a MODEL --out OUT", "tune", "vbench world --out OUT", "train toy-vdt --out OUT", "plan toy-vdt",
        "evaluate world", "evaluate physics", "evaluate tasks", "evaluate zero", "evaluate control --model MODEL",
        "evaluate sensitivity",
        "evaluate reconstruction world world", "evaluate generation world world", "compare PLAN --out OUT",
    ],
)  # fmt: skip
def test_a_wrong_device_is_one_line_before_any_work(
    line: str, tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {
        "MODEL": tiny,
        "CLIP": ROOT / "none.mp4",
        "OUT": tmp_path / "out",
        "PLAN": ROOT / "benchmarks/videodit.yaml",
    }
    words = [places.get(word, word) for word in line.split()]
    assert run(*words, "--device", "banana") == 2
    printed = capsys.readouterr()
    assert printed.err == f"kinolab: device 'banana': expected {known()}\n" and not (tmp_path / "out").exists()


def known() -> str:
    from kinolab.runtime.devices import listed

    return listed()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"), text=False)


@pytest.mark.slow
def test_what_was_taken_is_said_once_and_recorded(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    out = tmp_path / "x.mkv"
    with StandInDevice():
        assert run("generate", "--model", tiny, "--label", 1, "--out", out, "--device", "mps") == 0
    assert capsys.readouterr().err == "device: mps, Apple GPU\n"
    assert read_provenance(out)["request"]["device"] == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert run("rerun", out) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"kinolab: {out}: device mps: not there") and error.count("\n") == 1
    assert "--device" in error
    assert run("rerun", out, "--device", "cpu", "--out", tmp_path / "again.mkv") in (0, 1)
    printed = capsys.readouterr()
    assert (
        printed.err == f"{announce(torch.device('cpu'), 'cpu')}\n"
        and "differs: device: mps then, cpu now" in printed.out
    )
    assert read_provenance(tmp_path / "again.mkv")["request"]["device"] == "cpu"


def test_a_record_of_earlier_versions_is_made_again_where_it_was(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.mkv"
    assert run("generate", "--model", tiny, "--label", 1, "--out", out) == 0
    assert capsys.readouterr().err == f"{announce(choose())}\n"
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["request"]["device"] == str(choose())
    assert run("rerun", out, "--out", tmp_path / "again.mkv") == 0
    assert "identical" in capsys.readouterr().out


def test_the_device_of_videos_that_are_only_read_is_no_choice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", "world", "--videos", tmp_path, "--device", "cuda") == 2
    assert "--device cuda is for a model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--resume=never"], "does not take a value"),
        (["--resume", "auto"], "expected a recipe"),
        (["--resume", "auto", "--out", "RUN"], "expected a recipe"),
        (["nope", "--resume", "auto", "--out", "RUN"], "no such recipe"),
        (["--resume", "--out", "RUN"], "no run to resume"),
        (["--resume", "toy-vdt", "--run", "RUN"], "no run to resume"),
    ],
)
def test_resuming_what_is_not_there(
    words: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", *(str(tmp_path / "run") if w == "RUN" else w for w in words)) == 2
    assert text in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_resume_auto_begins_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    from tests.training.tiny import autoencoder_recipe

    path, out = tmp_path / "r.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(autoencoder_recipe(steps=3)))
    for options in (["--until", "1"], ["--until", "2"], []):
        assert run("train", path, "--out", out, "--resume", "auto", "--device", "cpu", *options) == 0
    printed = capsys.readouterr()
    assert "stopped at step 1 of 3" in printed.out and "stopped at step 2 of 3" in printed.out
    assert f"kinolab train --resume --out {out}" in printed.out and f"done: {out / 'model'}" in printed.out
    assert printed.err.count("device: cpu") == 3 and "changed" not in printed.err
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines() if '"train"' in line]
    assert steps == [1, 2, 3]
    assert run("train", path, "--out", out) == 2 and "holds a run already" in capsys.readouterr().err
