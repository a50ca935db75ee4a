"""What a test sees of the machine, in its own process and in those that it starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from kinolab.runtime import precision
from tests.machine import REMOVED, SET
from tests.processes import Child, kinolab

PERSON = ("HOME", "USERPROFILE")


def test_nobodys_home_terminal_and_job(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert Path.home().parent == tmp_path_factory.getbasetemp()
    assert {os.environ[name] for name in PERSON} == {str(Path.home())}
    assert not [name for name in REMOVED if name in os.environ]
    assert {name: os.environ[name] for name in SET} == SET
    assert shutil.get_terminal_size() == (80, 25) and Console().width == 80 and not Console().is_terminal


def test_a_process_that_a_test_starts_has_the_same() -> None:
    code = "import os; from pathlib import Path; print(Path.home(), os.environ['COLUMNS'], os.environ.get('RANK'))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == [str(Path.home()), "80", "None"]


def test_no_accelerator_one_thread_and_auto_is_float32() -> None:
    assert not torch.cuda.is_available() and not torch.xpu.is_available() and not torch.backends.mps.is_available()
    assert torch.get_num_threads() == 1
    assert precision.resolve("auto") is torch.float32


def _says_what_it_sees() -> None:
    seen = [Path.home(), Path.cwd(), torch.get_num_threads(), precision.resolve("auto")]
    print(*seen, os.environ["MARK"], os.environ.get("OTHER"))


@pytest.mark.slow
def test_a_forked_process_has_all_of_it_and_what_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for mark, other in (("here", "there"), ("now", None)):
        if other is not None:
            monkeypatch.setenv("OTHER", other)
        status, said = Child(_says_what_it_sees, environment={"MARK": mark}).wait()
        assert (status, said.split()) == (0, [str(Path.home()), str(tmp_path), "1", "torch.float32", mark, str(other)])
        assert "MARK" not in os.environ
        monkeypatch.delenv("OTHER", raising=False)


@pytest.mark.slow
def test_a_command_in_a_forked_process_ends_with_its_status_and_words() -> None:
    status, said = kinolab(["probe", "nowhere.mp4"]).wait()
    assert status == 2 and "nowhere.mp4" in said


def _waits() -> None:
    import time

    time.sleep(60)


def test_a_forked_process_can_be_killed() -> None:
    child = Child(_waits)
    assert child.running
    child.kill()
    assert not child.running and child.wait()[0] == -9


@pytest.fixture(scope="module")
def shared() -> torch.Tensor:
    return torch.randn(3)


def test_what_tests_share_is_drawn_alike_whoever_asks_first(shared: torch.Tensor) -> None:
    assert torch.equal(shared, torch.randn(3, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.randn(3), shared), "and a test begins there too"
