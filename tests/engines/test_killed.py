"""`python -m fuzz engines`, short: workers and commands that are killed leave what one quiet process leaves."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from fuzz import engines
from tests.processes import ROOT


@pytest.mark.wide
@pytest.mark.parametrize("name", ["encode", "generate"])
def test_killed_a_few_times_by_processes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(name, "embedded", tmp_path, monkeypatch)


@pytest.mark.wide("ray")
def test_killed_a_few_times_by_actors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed("encode", "ray", tmp_path, monkeypatch)


@pytest.mark.wide
def test_a_command_that_fails_by_itself_ends_it(tmp_path: Path) -> None:
    command = engines.Command("status", ("status",), lambda out: out / "gone", lambda out: 0)
    found = engines.kill(command, "embedded", 2, 3, {}, tmp_path, Random(1))
    assert found.given == found.rounds == len(found.unequal) == 1 and "ended with 2" in found.unequal[0]


def killed(name: str, engine: str, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    [command] = [each for each in engines.commands(room, 10) if each.name == name]
    quiet = engines._quiet(command, room / "quiet")
    found = engines.kill(command, engine, 2, 3, quiet, room / "killed", Random(1))
    assert found.unequal == [] and found.kills.total() == 3 and found.given > found.rounds
