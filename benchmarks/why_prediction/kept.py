"""What the experiments share: figures that are kept as they come, and trainings that go on where they were stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kinolab.training.run import train

STILL = ("training.threads=1", "training.tensorboard=false")
"""What all runs have in common."""


def known(path: Path) -> dict[str, Any]:
    """The rows of a file of figures; none where it is not there yet."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def keep(path: Path, name: str, row: dict[str, Any]) -> None:
    """Put a row into a file of figures, beside those that are there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known(path) | {name: row}, indent=1) + "\n", encoding="utf-8")


def once(runs: Path, name: str, measure: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """A row that trains in a folder of its own: as it was measured before, or now."""
    folder = runs / name.replace(" ", "-").replace(",", "")
    done = folder / "result.json"
    if not done.exists():
        done.write_text(json.dumps(measure(folder), indent=1) + "\n", encoding="utf-8")
    return known(done)


def trained(recipe: str, folder: Path, steps: int, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Train to the end, from where an earlier call stopped: the lines of the log."""
    how = [f"training.steps={steps}", f"training.sample_every={steps}", *STILL, *overrides]
    train(recipe, folder, how, resume="auto")
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
