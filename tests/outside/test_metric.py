"""A metric from outside the package: registered, asked for by name, listed where the others are."""

import json
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from kinolab import video
from kinolab.cli import main
from kinolab.config import Config
from kinolab.metrics import METRICS
from kinolab.metrics.base import Need, Setup
from kinolab.metrics.clips import ClipScores, Protocol, unit_pair


class ShiftConfig(Config):
    unit: float = 1.0


class Shift(ClipScores):
    """How much brighter or darker a reconstruction is, in `unit`s of a grey level."""

    name, better, digits, needs, Config = "shift", "lower", 1, frozenset[Need]({"pairs"}), ShiftConfig
    unit = 1.0

    @classmethod
    def build(cls, setup: Setup) -> "Shift":
        made = cls()
        made.unit = setup.settings.unit
        return made

    def update(self, original: Tensor, reconstruction: Tensor) -> None:
        x, y = unit_pair(original, reconstruction)
        self._add(((y - x).mean((1, 2, 3, 4)).abs() * 255 / self.unit).tolist(), original)

    def _settings(self) -> Protocol:
        return {"unit": self.unit}


def test_it_is_measured_by_name_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: object) -> str:
        with pytest.raises(SystemExit):
            main(["evaluate", "reconstruction", *map(str, words)])
        return " ".join("".join(capsys.readouterr()).split())

    METRICS.register("shift", "reconstruction")(Shift)
    for folder, grey in (("a", 100), ("b", 106)):
        for k in range(6):
            video.write(tmp_path / folder / f"{k}.mkv", np.full((3, 16, 16, 3), grey, np.uint8), 8, lossless=True)
    rules = "{name: p, kind: reconstruction, metrics: [shift], frames: 3, size: 16, settings: {shift: {unit: 3}}}"
    (tmp_path / "p.yaml").write_text(rules)
    words = [tmp_path / "b", tmp_path / "a", "--protocol", tmp_path / "p.yaml", "--out", tmp_path / "s.json"]
    assert "lower" in run(*words)
    found = json.loads((tmp_path / "s.json").read_text())["metrics"]["shift"]
    assert found["value"] == pytest.approx(2.0, rel=1e-3) and found["interval"] and found["protocol"]["unit"] == 3.0
    assert "rfvd, shift." in run("--help") and run(*words, "-s", "metrics=[x]").endswith("rfvd, shift")
    METRICS.remove("shift")
