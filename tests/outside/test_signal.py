"""A signal from outside: it reads clips, its numbers and notes stand beside the others of `kinolab data check`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kinolab import video
from kinolab.data import FolderConfig, FolderSource
from kinolab.data.curate.base import Looked, Signal
from kinolab.tables import SIGNALS
from tests.outside.commands import run


class Dark(Signal):
    """How dark the first frame is."""

    unit, reads = "levels", True

    def value(self, clip: Looked) -> float:
        return 255.0 - float(next(video.iter_frames(clip.path)).image.mean())

    def notes(self, clip: Looked) -> list[str]:
        return ["dark"] if self.value(clip) > 200 else []


def test_it_is_asked_by_data_check_alone(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    SIGNALS.register("dark")(Dark)
    request.addfinalizer(lambda: SIGNALS.remove("dark"))
    for name, level in {"day": 200, "night": 20}.items():
        video.write(tmp_path / f"{name}.mkv", np.full((5, 32, 32, 3), level, np.uint8), fps=8, lossless=True)
    words = ["data", "check", tmp_path, "--frames", 5, "--size", 32, "-s", "data.index=none"]
    lines = run(*words, "--json")
    day, night = (json.loads("{" + part) for part in lines.replace("} {", "}\n{").split("{", 1)[1].split("\n{"))
    assert day["signals"]["dark"] == pytest.approx(55, abs=1) and night["signals"]["dark"] == pytest.approx(235, abs=1)
    assert day["signals"]["rate"] == 8 and night["notes"] == ["dark"] and day["notes"] == []
    assert "dark" in run(*words)
    source = FolderSource(FolderConfig(path=tmp_path, frames=5, size=32, index="none", split="all"))
    assert all("dark" not in verdict.signals for verdict in source.verdicts()), "a training reads no clip twice"
