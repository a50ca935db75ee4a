"""Runs that 0.1.0 was interrupted in go on to their end, from its checkpoints, with its next step's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.adapter import find
from tests.closeness import assert_close
from tests.net.conftest import Command
from tests.net.make import END, HALF, RECIPES

pytestmark = pytest.mark.slow  # many short ones, which take long together

FIRST, LATER = 1e-3, 1e-2
"""Share by which the first number after a resumption may differ on another processor, and later ones."""


def lines(path: Path, kind: str = "train") -> dict[int, dict[str, Any]]:
    """The lines of a log of one kind, by their step."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {r["step"]: r for r in records if r["kind"] == kind}


@pytest.mark.parametrize("name", [*RECIPES, "latte-sharded"])
def test_a_run_goes_on(name: str, here: Path, kinolab: Command) -> None:
    before = (here / "runs" / name / "log.jsonl").read_text(encoding="utf-8")
    done = kinolab("train", "--run", f"runs/{name}", "--resume")
    assert done.status == 0, done.err
    assert "changed since" not in done.out + done.err, "no setting of then has another meaning now"
    log = here / "runs" / name / "log.jsonl"
    assert log.read_text(encoding="utf-8").startswith(before), "what was logged then stands"
    found, expected = lines(log), lines(here / "logs" / f"{name}.jsonl")
    assert sorted(found) == sorted(expected) == list(range(1, END + 1))
    for step, within in ((HALF + 1, FIRST), (END, LATER)):
        for key, value in expected[step].items():
            if key not in ("kind", "seconds", "step_seconds"):
                assert_close(found[step][key], value, within, f"{name}, step {step}: {key}")
    model = here / "runs" / name / "model"
    then_model = here / "models" / name.removesuffix("-sharded")
    assert {p.name for p in model.iterdir()} >= {p.name for p in then_model.iterdir()}
    measured, then = lines(log, "heldout")[END], lines(here / "logs" / f"{name}.jsonl", "heldout")[END]
    for key, value in then.items():
        if key not in ("kind", "seconds"):
            assert_close(measured[key], value, LATER, f"{name}, held out: {key}")


def test_a_resumed_model_makes_what_that_of_then_makes(here: Path, kinolab: Command) -> None:
    assert kinolab("train", "--run", "runs/latte", "--resume").status == 0
    made, then = (find("VideoModel").load(path, precision="float32") for path in ("runs/latte", "models/latte"))
    found = made.state_dict()
    for name, value in then.state_dict().items():
        assert_close(found[name], value, LATER, name)
    assert made.config.class_names == then.config.class_names and made.config.tasks == then.config.tasks
