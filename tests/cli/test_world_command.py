"""`kinolab world` writes clips that the reader finds to be what their captions say, and reports on a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from kinolab import video
from kinolab.cli.world import world
from kinolab.errors import InputError
from kinolab.toyworld.clips import CLASSES, load_state, parse_caption

app = typer.Typer()
app.command()(world)


def run(*args: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in args])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.mark.slow
def test_written_clips_carry_what_training_needs_and_check_out(tmp_path: Path) -> None:
    run(tmp_path / "w", "--count", 4, "--seed", 30, "--scenario", "throw", "--scenario", "float")
    rows = [json.loads(line) for line in (tmp_path / "w" / "captions.jsonl").read_text().splitlines()]
    assert [row["seed"] for row in rows] == [30, 31, 32, 33]
    for row in rows:
        clip = video.read(tmp_path / "w" / row["file"])
        assert clip.frames.shape == (17, 64, 64, 3) and clip.fps == row["fps"] == 8
        assert CLASSES[row["label"]] == row["class"] and row["class"] in ("throw", "float")
        assert load_state(tmp_path / "w" / row["state"])[0] == parse_caption(row["caption"])
    report = run(tmp_path / "w", "--check")
    assert "passed      100.0%" in report and "4 clips" in report


def test_the_report_names_the_clips_that_are_not_as_asked(tmp_path: Path) -> None:
    run(tmp_path, "--count", 2, "--scenario", "fall")
    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    rows[1]["caption"] = "a red ball is thrown to the left"
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = run(tmp_path, "--check")
    assert "passed       50.0%" in report and "not as asked: clip-000001.mp4" in report


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"captions\.jsonl: no such file"):
        run(tmp_path, "--check")
    with pytest.raises(InputError, match="unknown scenario 'fly'"):
        run(tmp_path, "--scenario", "fly")
    (tmp_path / "captions.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="line 1: expected"):
        run(tmp_path, "--check")
