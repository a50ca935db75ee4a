"""The folders of the net, unpacked once, and commands that run inside a copy of them."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.folders import unfold
from kinolab.cli import main

ARCHIVE = Path(__file__).parent / "d564d33.tar.xz"
VARIANTS = ARCHIVE.with_name("variants.json.xz")


@dataclass(frozen=True)
class Done:
    """What came of a command."""

    status: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture(scope="session")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders as they were written; nothing in them may be changed."""
    folder = tmp_path_factory.mktemp("net") / "d564d33"
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(folder, filter="data")
    unfold(VARIANTS, folder)
    return folder


@pytest.fixture
def here(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folders that is the current folder, as all their paths are relative; and an empty home."""
    copy = tmp_path / "net"
    shutil.copytree(net, copy)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return copy


@pytest.fixture
def kinolab(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command as a person types it, and returns its status and what it printed."""

    def command(*words: object) -> Done:
        status: object = 0
        try:
            main([str(w) for w in words])
        except SystemExit as stop:
            status = stop.code or 0
        said = capsys.readouterr()
        return Done(status if isinstance(status, int) else 1, said.out, said.err)

    return command
