"""The folder in which a person stands, written as `.`: every command takes it, or says what is wrong in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kinolab import video
from tests.outside.commands import run

pytestmark = pytest.mark.slow  # many short ones, which take long together

COMMANDS = {
    "verify .": "holds nothing that Kinolab writes",
    "probe .": "a.mp4",
    "data check . --frames 5 --size 16": "1 of 1 clips",
    "inspect .": ".",
    "rerun .": "",
    "predict . --out x.mp4": "",
    "reconstruct . --out x.mp4": "",
    "reconstruct a.mp4 --out .": "",
    "generate --label fall --steps 1 --out .": "",
    "predict a.mp4 --steps 1 --out ..": "",
    "convert . --out x": "",
    "pack . --out x": "no model.yaml inside",
    "train .": "no such recipe",
    "train --out . --resume": "no run to resume here",
    "tune .": "no model.yaml inside",
    "report . --out x.html": "no run folder",
}


@pytest.mark.parametrize("words", COMMANDS)
def test_here(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is none of Kinolab's own errors would come through here as it is."""
    (tmp_path / "clips").mkdir()
    monkeypatch.chdir(tmp_path / "clips")
    video.write(Path("a.mp4"), np.zeros((6, 16, 16, 3), np.uint8), fps=8)
    said = run(*words.split())
    assert COMMANDS[words] in said and said
