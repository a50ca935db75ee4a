"""Shared fixtures: one thread per test process, so that tests in parallel don't fight over the cores; no test knows the
machine that it runs on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import golden_kinds, machine

pytest_plugins = ["tests.wide_report"]

torch.set_num_threads(1)
machine.steady()


def pytest_addoption(parser: pytest.Parser) -> None:
    where = "reference numbers for tests/test_golden_files.py instead of tests/golden"
    parser.addoption("--golden", type=Path, metavar="FOLDER", help=where)
    needed = "released public weights, which are not in the repository, for the golden files that need them"
    parser.addoption("--released", type=Path, metavar="FOLDER", help=needed)


def pytest_configure(config: pytest.Config) -> None:
    golden_kinds.released = config.getoption("--released")


@pytest.fixture(autouse=True, scope="session")
def _nobodys_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with machine.somebodys(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Every test starts from the same random state, and leaves none behind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Iterator[None]:
    """So does every fixture that several tests share: its weights don't depend on which of them asks first."""
    if fixturedef.scope == "function":
        return (yield)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (yield)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """An empty object store in memory (memory://), and a home of one's own for what is mirrored of it."""
    import fsspec

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found = fsspec.filesystem("memory")
    found.store.clear()
    yield found
    found.store.clear()


@pytest.fixture(autouse=True)
def _no_leftover_filters() -> Iterator[None]:
    """A test that changes warning filters doesn't change them for the next one."""
    with warnings.catch_warnings():
        yield
