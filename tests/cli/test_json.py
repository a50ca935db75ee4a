"""Scores as JSON: what is printed is what is written, and nothing else on standard output."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kinolab import video
from kinolab.cli import main


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
