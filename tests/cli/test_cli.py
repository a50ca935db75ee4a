"""The command line as a person meets it: one line and status 2 for a mistake, never a traceback."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from kinolab import video
from kinolab.cli import COMMANDS, build
from tests.cli.every import run
from tests.tiny_model import save_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        assert run(command, "--help") == 0
    assert "Usage" in capsys.readouterr().out
    assert build(list(COMMANDS)) is not None


def test_sigterm_is_taken_as_ctrl_c_but_for_commands_with_their_own_way(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def asked(app: Any, words: list[str]) -> int:
        if words[0] == "train":
            return int(signal.getsignal(signal.SIGTERM) is not before)
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    monkeypatch.setattr("kinolab.cli._run", asked)
    assert run("encode", "world") == 130 and capsys.readouterr().err == "kinolab: interrupted\n"
    assert run("train", "x") == 0 and signal.getsignal(signal.SIGTERM) is before
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert run("encode", "world") == 130, "one that a shell began behind its back"
    finally:
        signal.signal(signal.SIGINT, ignored)


@pytest.mark.slow
def test_a_negative_prompt_alone_keeps_the_guidance(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.mp4"
    options = ("--model", folder, "--out", out, "--steps", 2, "--precision", "float32")
    assert run("generate", *options, "--negative", "a blue box") == 0
    request = json.loads(out.with_suffix(".json").read_text())["request"]
    assert (request["negative"], request["guidance"]["scale"]) == ("a blue box", 2.0)


@pytest.mark.slow
def test_generate_then_rerun(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.mp4"
    assert run("generate", "a ball", "--model", folder, "--out", out, "--steps", 2, "--precision", "float32") == 0
    assert video.probe(out).frames == 5
    assert json.loads(out.with_suffix(".json").read_text())["request"]["sampler"]["steps"] == 2
    assert run("rerun", out) == 0
    assert "identical" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "no-such-recipe"], "no such recipe"),
        (["train"], "expected a recipe"),
        (["train", "toy-odvae", "-s", "training.stepz=3"], "unknown key 'training.stepz', did you mean 'steps'"),
        (["generate", "a ball", "--model", "nowhere"], "no such model"),
        (["probe", "nothing.mp4"], "nothing.mp4"),
        (["reconstruct", "nothing.mp4"], "nothing.mp4"),
        (["rerun", "nothing.mp4"], "nothing.mp4"),
        (["data", "check", "nowhere", "--frames", "5", "--size", "32"], "nowhere"),
        (["inspect", "nothing.pt"], "nothing.pt"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    words: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert expected in error and "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_is_none(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "a", "--model", folder, "--size", "big", "--out", tmp_path / "x.mp4") == 2
    assert "96x160" in capsys.readouterr().err


@pytest.mark.slow
def test_prompts_come_from_a_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One on each line; U+2028 is part of a prompt, and one that the encoder knows nothing of is named."""
    prompts = tmp_path / "p.txt"
    prompts.write_bytes("\ufeffa ball\r\n\r\n\U0001f408\r\na red\u2028box\r\n".encode("utf-16-le"))
    options = ("--model", folder, "--out", tmp_path / "x.mp4", "--steps", 1, "--precision", "float32")
    assert run("generate", "--prompts", prompts, *options) == 0
    records = [json.loads((tmp_path / f"x-{k}.json").read_text())["prompt"] for k in range(3)]
    assert records == ["a ball", "\U0001f408", "a red\u2028box"]
    warnings = [line for line in capsys.readouterr().err.split("\n") if line.startswith("warning: the text encoder")]
    assert len(warnings) == 1 and "knows no token of the prompt '\U0001f408'" in warnings[0]


@pytest.mark.parametrize(
    ("data", "words", "said"),
    [
        (b"caf\xe9", [], "p.txt: line 1: byte 0xe9 at position 3 is not UTF-8"),
        (b"\n \n", [], "p.txt: holds no prompts"),
        (b"a", ["b"], "give one of them"),
        (None, [], "p.txt: no such file"),
    ],
)
def test_a_file_that_holds_no_prompts_is_one_line(
    data: bytes | None, words: list[str], said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if data is not None:
        (tmp_path / "p.txt").write_bytes(data)
    out = tmp_path / "x.mp4"
    assert run("generate", *words, "--prompts", tmp_path / "p.txt", "--model", folder, "--out", out) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not list(tmp_path.glob("x*"))


@pytest.mark.slow
@pytest.mark.parametrize("label", ["3", "-1", "1.0", "a dog", "99999999999999999999"])
def test_a_label_out_of_range_is_one_line(
    label: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("generate", f"--label={label}", "--model", folder, "--out", tmp_path / "x.mp4") == 2
    error = capsys.readouterr().err
    assert f"label {label!r}: expected one of 0" in error and error.count("\n") == 1 and not list(tmp_path.iterdir())
