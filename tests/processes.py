"""Processes of their own for tests, without the seconds that each would need to import torch.

A server, started at the first call, imports what commands need once and then forks: a child is a process as any other
(it can be killed, it has its own memory, environment and output), and starts in milliseconds. That the interpreter
itself starts is tested where that is the point.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from tests import machine

ROOT = Path(__file__).parent.parent
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["kinolab.training.run", "kinolab.comparison.run", "tests.processes"])


class Child:
    """A call in a process of its own, with this one's environment and folder of now, and its output in a file."""

    def __init__(self, call: Callable[..., None], *given: Any, environment: Mapping[str, str] | None = None) -> None:
        descriptor, name = tempfile.mkstemp(prefix="kinolab-child-")
        os.close(descriptor)
        self._output = Path(name)
        self._process: ForkServerProcess = FORKS.Process(
            target=_child, args=(call, given, {**os.environ, **(environment or {})}, os.getcwd(), name), daemon=True
        )
        with chdir(ROOT):  # where the server, which the first child starts, finds what to import
            self._process.start()

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._process.kill()
        self._process.join()

    def wait(self, seconds: float = 200) -> tuple[int, str]:
        """The exit status and what was printed, both streams together."""
        self._process.join(seconds)
        if self._process.is_alive():
            self.kill()
        status = self._process.exitcode
        assert status is not None
        return status, self._output.read_text(encoding="utf-8", errors="replace")


def kinolab(words: Sequence[str], environment: Mapping[str, str] | None = None) -> Child:
    """`kinolab WORDS...` in a process of its own."""
    return Child(_kinolab, list(words), environment=environment)


def run(command: Sequence[str], **_given: Any) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` for commands of the form `python -P -m kinolab ...`, whose output it gives as standard error."""
    assert list(command[:4]) == [sys.executable, "-P", "-m", "kinolab"], command
    status, said = kinolab(command[4:]).wait()
    return subprocess.CompletedProcess(list(command), status, "", said)


def _child(
    call: Callable[..., None], given: tuple[Any, ...], environment: dict[str, str], folder: str, output: str
) -> None:
    os.environ.clear()  # the server has those of the moment when it began
    os.environ.update(environment)
    os.chdir(folder)
    with open(output, "wb") as file:  # the streams of the process, not only Python's
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    machine.steady()
    try:
        call(*given)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _kinolab(words: list[str]) -> None:
    from kinolab.cli import main

    main(words)
