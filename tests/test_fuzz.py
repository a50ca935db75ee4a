"""The fuzzer itself, a few seconds of it over every kind, and every input that ever failed."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzz import formats, values
from fuzz.cases import Target, make_case, parse_case
from fuzz.run import fuzz, replay
from fuzz.seeds import MAKERS, prepare
from fuzz.targets import KINDS, TARGETS, of_kind
from kinolab.errors import InputError

pytestmark = pytest.mark.slow  # many short ones, which take long together

CORPUS = Path(__file__).parent / "fuzz_corpus"
COUNTS = {"media": 12, "plans": 12, "runs": 25, "reports": 25, "caches": 25}
"""Inputs of the slower kinds; of others 60."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.wide
def test_nothing_but_errors_of_one_line_comes_of_broken_files(kind: str, tmp_path: Path) -> None:
    count = COUNTS.get(kind, 60)
    figures = fuzz(of_kind(kind), tmp_path, seed=1, count=count)
    assert not figures.counts, [outcome.what for outcome, _ in figures.findings]
    assert figures.inputs == count and figures.refused and figures.accepted, "every input is refused, or none is"


@pytest.mark.wide
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_errors_of_one_line_in_minutes(kind: str, tmp_path: Path) -> None:
    figures = fuzz(of_kind(kind), tmp_path, seed=int(time.time()), minutes=1)
    assert not figures.counts, [(outcome.what, case.text()[:2000]) for outcome, case in figures.findings]


def test_what_once_failed_does_not_fail_again() -> None:
    paths = sorted(CORPUS.glob("*.json"))
    assert paths and sum(path.stat().st_size for path in paths) < 300_000
    found = replay(paths, TARGETS)
    assert not [(p.name, o.what) for p, o in zip(paths, found, strict=True) if o.result == "finding"]


def plain(root: Path, names: list[str]) -> None:
    """A valid folder of one small file."""
    for name in names:
        (root / name / "one").mkdir(parents=True)
        (root / name / "one" / "a.txt").write_text("valid " * 20)


def leak(folder: Path) -> None:
    kept.clear()
    kept.append(bytearray(b"x") * (2**20 * 2100))


kept: list[bytearray] = []


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (lambda folder: dict[str, int]()["key"], "KeyError"),
        (lambda folder: os.kill(os.getpid(), 0), "ran os.kill"),
        (lambda folder: subprocess.run(["true"], check=True), "ran "),
        (lambda folder: (folder.parent / "planted").write_text("x"), "outside its folder"),
        (lambda folder: (folder.parent / "secret.json").read_text(), "outside its folder"),
        (lambda folder: (folder.parent / "secret.json").unlink(), "outside its folder"),
        (lambda folder: ctypes.string_at(0), "dies of signal 11"),
        (lambda folder: os._exit(3), "ends the process with 3"),
        (lambda folder: time.sleep(60), "hangs"),
        pytest.param(lambda folder: leak(folder), "takes ", marks=pytest.mark.wide),
        (lambda folder: __import__("antigravity"), "imported antigravity"),
    ],
)
def test_a_planted_fault_is_found(fault: Callable[[Path], object], what: str, tmp_path: Path) -> None:
    """In a reader that refuses most changed files, as it should, and does what it shouldn't with some."""

    def read(folder: Path) -> None:
        text = (folder / "a.txt").read_bytes()
        if text != b"valid " * 20:
            if text[:1] != b"v":
                raise InputError(f"{folder}: not valid")
            fault(folder)

    patience = 0.2 if what == "hangs" else 20.0
    figures = fuzz([Target("planted", "planted", read)], tmp_path, count=4, make=plain, seconds=patience)
    assert figures.refused and figures.findings, "no fault was found"
    assert all(what in outcome.what for outcome, _ in figures.findings), figures.findings
    _, case = figures.findings[0]
    assert parse_case(case.text()) == case and case.changes


@pytest.mark.parametrize("error", [OSError(2, "No such file", "x"), InputError("one line")])
def test_errors_of_a_person_are_refusals(error: Exception, tmp_path: Path) -> None:
    def read(folder: Path) -> None:
        if (folder / "a.txt").read_bytes() != b"valid " * 20:
            raise error

    figures = fuzz([Target("planted", "planted", read)], tmp_path, count=5, make=plain)
    assert not figures.counts and figures.refused


def test_a_seed_names_its_inputs(tmp_path: Path) -> None:
    names = ["recipe", "rerun", "table", "file"]
    made = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        prepare(folder, names)
        targets = [t for t in TARGETS if t.name in names]
        made.append([make_case(targets, folder, 7, number).text() for number in range(40)])
    assert made[0] == made[1] and len(set(made[0])) > 35
    assert make_case(targets, tmp_path / "a", 8, 0).text() != made[0][0]


def test_every_target_has_seeds() -> None:
    assert {target.name for target in TARGETS} == set(MAKERS)


def test_changes_of_values_reach_every_place() -> None:
    from random import Random

    value = {"a": [1, {"b": "c"}], "d": None}
    found = [values.changed(value, Random(k)) for k in range(300)]
    assert value == {"a": [1, {"b": "c"}], "d": None}
    assert sum(str(f) != str(value) for f in found) > 250
    assert any(not isinstance(f, dict) for f in found) and any(isinstance(f, dict) and "a" not in f for f in found)
    for name in formats.CHANGES:
        formats.changed(f"x.{name}", b"no such file", Random(0))
