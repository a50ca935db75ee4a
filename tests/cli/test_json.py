"""What prints a result prints it as JSON too: everything, and nothing else on standard output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from kinolab import video
from kinolab.cli import build, main

RESULTS = ["evaluate reconstruction", "evaluate generation", "evaluate sensitivity", "evaluate world",
           "evaluate physics", "evaluate tasks", "tune", "plan", "reconstruct", "compare", "probe", "inspect",
           "doctor"]  # fmt: skip


@pytest.mark.parametrize("name", RESULTS)
def test_every_command_with_a_result_has_it(name: str) -> None:
    words = name.split()
    command: Any = typer.main.get_command(build(words[:1]))
    for word in words:
        command = command.commands[word] if word in getattr(command, "commands", {}) else command
    assert "--json" in [option for parameter in command.params for option in parameter.opts]


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[str, str]:
    with pytest.raises(SystemExit):
        main([*map(str, words)])
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_scores_are_printed_as_they_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k in range(2):
        for folder in ("a", "b"):
            frames = np.full((3, 16, 16, 3), 50 + k, np.uint8)
            video.write(tmp_path / folder / f"{k}.mkv", frames, 8, lossless=True)
    words = ["evaluate", "reconstruction", tmp_path / "b", tmp_path / "a", "-s", "metrics=[psnr]", "-s", "frames=3"]
    words += ["-s", "size=16", "-s", "minimum=2", "-s", "video=null", "--out", tmp_path / "s.json"]
    out, _ = run(capsys, *words, "--json")
    assert json.loads(out)["metrics"]["psnr"]["value"] == 100.0 and out == (tmp_path / "s.json").read_text()
    out, _ = run(capsys, *words)
    assert "psnr" in out and not out.startswith("{") and "s.json" in out


def test_the_cells_of_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = Path(__file__).parents[2] / "benchmarks" / "comparison.yaml"
    out, _ = run(capsys, "compare", plan, "--out", tmp_path, "--list", "--json")
    cells = json.loads(out)["cells"]
    assert len(cells) > 2 and all(set(cell) == {"id", "state", "problem"} for cell in cells)
    lines, _ = run(capsys, "compare", plan, "--out", tmp_path, "--list")
    assert [line.split()[-1] for line in lines.splitlines()] == [cell["id"] for cell in cells]
