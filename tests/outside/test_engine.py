"""An engine from outside: a command names it, its workers do the work, and the files are those of one process."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any, Literal

import pytest

from kinolab.contracts.engine import Answer, Crew, Engine, Job
from kinolab.engines.serving import served, started
from kinolab.tables import ENGINES
from tests.data.clip_files import write_numbered
from tests.engines.folders import files_of
from tests.outside.commands import run
from tests.tiny_model import save_tiny_model


class Turns(Engine):
    """Workers of this process that take turns."""

    def crew(self, job: Job, workers: int) -> Crew:
        return TurnsCrew(job)


class TurnsCrew(Crew):
    def __init__(self, job: Job) -> None:
        self.job, self.workers, self.answers = job, dict[int, Any](), deque[Answer]()

    def begin(self, number: int) -> None:
        self.workers[number], kind, value = started(self.job, number, 1)
        self.answers.append(Answer(number, kind, value))

    def give(self, number: int, call: Literal["run", "probe"], given: Any) -> None:
        self.answers.appendleft(Answer(number, *served(self.workers[number], call, given)))

    def wait(self, seconds: float) -> list[Answer]:
        return [self.answers.pop()] if self.answers else []

    def dismiss(self, number: int) -> None:
        self.workers.pop(number, None)

    def close(self) -> None:
        self.workers.clear()


@pytest.mark.slow
def test_an_engine_from_outside(tmp_path: Path) -> None:
    ENGINES.register("turns")(Turns)
    try:
        for mark in range(2):
            write_numbered(tmp_path / "clips" / f"{mark}.mkv", 17, mark=40 * mark)
        save_tiny_model(tmp_path / "model", text=False)
        words = ("encode", tmp_path / "clips", "-a", tmp_path / "model", "--frames", 5, "--size", 16,
                 "--shard-size", 2, "-s", "data.index=none", "--out")  # fmt: skip
        assert "6 encoded now" in run(*words, tmp_path / "a")
        assert "6 encoded now" in run(*words, tmp_path / "b", "--engine", "turns", "--workers", 3)
        a, b = ({k: v for k, v in files_of(tmp_path / name).items() if k[0] != "."} for name in "ab")
        assert a == b and a
        assert "expected one of embedded, ray, turns" in run(*words, tmp_path / "c", "--engine", "turn")
    finally:
        ENGINES.remove("turns")
