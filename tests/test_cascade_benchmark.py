"""The comparison of a cascade with one model of the full size: both have the same processor seconds; and its table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import cascade
from kinolab.training.recipe import load_recipe


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A process whose time goes on in training alone: a second a step, of the full size four."""
    now = {"time": 0.0}

    def train(recipe: str, folder: Path, overrides: Sequence[str], *, resume: Any = False, events: Any = None) -> None:
        steps = load_recipe(recipe, overrides).training.steps
        for step in range(1, steps + 1):
            now["time"] += 4.0 if recipe.endswith("full") else 1.0
            if events is not None:
                events.progress(step, steps)
        (folder / "model").mkdir(parents=True)

    monkeypatch.setattr(cascade, "train", train)
    monkeypatch.setattr(cascade.time, "process_time", lambda: now["time"])
    return now


def test_the_full_size_has_the_seconds_that_the_stages_took(clock: dict[str, float], tmp_path: Path) -> None:
    asked = ["--out", str(tmp_path), "--seconds", "80"]
    said: list[str] = []
    for name in (*cascade.SHARES, cascade.FULL):
        cascade.main([*asked, "--models", name], said.append)
    seconds = {n: json.loads((tmp_path / f"seconds-{n}.json").read_text()) for n in (*cascade.SHARES, "full")}
    assert [seconds[name]["steps"] for name in ("base", "tsr", "ssr", "full")] == [40, 20, 20, 20]
    assert sum(seconds[name]["seconds"] for name in cascade.SHARES) == seconds["full"]["seconds"] == 80
    before = clock["time"]
    cascade.main([*asked, "--models", "base"], said.append)
    assert clock["time"] == before, "what is finished is kept"
    commands = [line for line in said if "kinolab train" in line]
    assert len(commands) == 4 and all("training.steps=" in line for line in commands)


def test_gradient_energy_and_psnr_are_those_of_pixels() -> None:
    clip = torch.zeros(3, 2, 4, 4)
    clip[..., 2:] = 1.0  # one edge of height 1 between 4 columns
    assert cascade._gradient(clip) == pytest.approx(1 / 3, rel=1e-6)
    assert cascade._psnr(clip + 0.2, clip) == pytest.approx(20.0, rel=1e-5)  # 10 log10(4 / 0.04)


def test_the_table_holds_what_was_counted() -> None:
    row = {"shares": {"colours": [0.5, 0.25, 0.75]}, "seconds_per_clip": 2.0}
    found = {
        "seconds": {"base": {"steps": 3, "batch": 2, "seconds": 9.6}},
        "given": {"ssr": {"psnr": 31.25, "plain": 29.0, "gradient": 0.95}},
        "energy": {"cascade": {"share": 0.912}},
        "world": {"cascade": row},
    }
    lines = cascade.markdown(found).splitlines()
    assert "| base | 3 | 2 | 10 |" in lines
    assert "| ssr | 31.2 | 29.0 | 0.95 |" in lines
    assert lines[-1] == "| cascade | 50% (25% to 75%) | 0.91 | 2.0 |"
