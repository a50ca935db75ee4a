"""Processes that go on when the one that began them is gone, told to stop by number, and never mistaken for others.

A process number is given anew once its process is gone, so one that is remembered has the moment at which it began
beside it (`Known`): a signal goes to that process or to none.

What is begun in a folder takes no code from there (`-P`, `safe_environment`): a folder of data that somebody else made
may hold files with the names of modules.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kinolab.errors import InputError
from kinolab.runtime import leftovers, system
from kinolab.runtime.files import make_folder
from kinolab.runtime.records import Record
from kinolab.runtime.text import split_lines

MOST_TAIL = 2**16
"""Bytes of a file's end that its last lines are looked for in."""


@dataclass(frozen=True)
class Known:
    """A process, so that it is told apart from a later one of the same number."""

    process: int
    start: str
    boot: str

    @classmethod
    def this(cls) -> Known:
        """The process that asks."""
        me = leftovers.this_process()
        return cls(me.process, me.start, me.boot)

    @classmethod
    def read(cls, record: Record) -> Known:
        """As `values` wrote it.

        Raises:
            InputError: for anything else.
        """
        return cls(record.integer("process", at_least=2), record.text("start"), record.text("boot"))

    def values(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @property
    def here(self) -> bool:
        """Whether it is, or was, one of this machine since it was started."""
        return self.boot == leftovers.this_process().boot

    @property
    def lives(self) -> bool:
        """Whether it still runs, here."""
        return self.here and leftovers.start_of(self.process) == self.start != leftovers.UNKNOWN

    def interrupt(self) -> bool:
        """Send it what Ctrl-C sends; whether it was there."""
        return self.signal(signal.SIGINT)

    def signal(self, number: int) -> bool:
        """Send it a signal; whether it was there."""
        if not self.lives:
            return False
        with suppress(ProcessLookupError, PermissionError):
            os.kill(self.process, number)
            return True
        return False

    def kill_group(self) -> bool:
        """End it and all that it began, at once; whether it was there. It has to lead its own group (`begin`)."""
        if not self.lives or not hasattr(os, "killpg"):
            return False
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process, signal.SIGKILL)
            return True
        return False


def safe_environment() -> dict[str, str]:
    """The environment of a process whose working folder is data: neither it nor what it begins imports from there.

    Python looks for modules in the working folder where it is told nothing else, and where PYTHONPATH holds an empty
    part; its other parts mean what they mean here.
    """
    parts = [os.path.abspath(part) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    found = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONSAFEPATH": "1"}
    return found | ({"PYTHONPATH": os.pathsep.join(parts)} if parts else {})


def begin(
    module: str, words: Sequence[str], *, output: Path, folder: Path, keep: Mapping[str, Any] | None = None
) -> subprocess.Popen[bytes]:
    """Begin `python -m module words` as the leader of a group of its own, which outlives this process.

    Args:
        output: the file that what it prints is added to.
        folder: its working folder.
        keep: further arguments of Popen, such as stdin.

    Raises:
        OSError: where it can't be begun.
    """
    make_folder(output.parent)
    descriptor = system.calls().open(output, system.APPEND)
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", module, *words], cwd=folder, stdout=descriptor, stderr=descriptor,
            start_new_session=True, env=safe_environment(), **{"stdin": subprocess.DEVNULL, **(keep or {})},
        )  # fmt: skip
    finally:
        os.close(descriptor)


def print_to(output: Path) -> None:
    """Have all that this process prints from now on added to a file.

    Raises:
        OSError: where it can't be written.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = system.calls().open(output, system.APPEND)
    try:
        for number in (1, 2):
            os.dup2(descriptor, number)
    finally:
        os.close(descriptor)


def hand_over(command: Sequence[str], text: str) -> str | None:
    """Give a text to a program's standard input: what it says; None where it is not there.

    Raises:
        InputError: where it refuses, with its own last line.
    """
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    if done.returncode:
        last = split_lines(done.stderr.strip() or done.stdout.strip() or "it said nothing")[-1]
        raise InputError(f"{' '.join(command)} ended with status {done.returncode}: {last}")
    return done.stdout.strip()


def tail(path: Path, lines: int = 30) -> list[str]:
    """The last lines of a file that a process prints to; [] where there is none. Bytes that are no text are escapes."""
    try:
        descriptor = os.open(path, system.EXISTING)
    except OSError:
        return []
    try:
        size = os.fstat(descriptor).st_size
        os.lseek(descriptor, max(0, size - MOST_TAIL), os.SEEK_SET)
        text = os.read(descriptor, MOST_TAIL).decode("utf-8", "backslashreplace")
    finally:
        os.close(descriptor)
    found = [line.rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    return [line for line in found if line][-lines:]


def forks(preload: Sequence[str]) -> Any:
    """Processes of Python's that work for this one: a context of `multiprocessing`.

    They are forked from a server that has imported `preload`, so that each begins at once and shares no state with this
    process; where the system has no such thing, they begin from nothing.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    with environment({"PYTHONSAFEPATH": "1"}):  # nothing is imported from the working folder, which may be data
        forkserver.ensure_running()
    return context


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables that what is begun inside has, and this process only meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def packed(value: Any) -> bytes:
    """A value as bytes for `unpacked` in another process of the same program; never for a file."""
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)


def unpacked(data: bytes) -> Any:
    """What `packed` was given. The bytes come from this program's own process, by a pipe or its cluster."""
    return pickle.loads(data)
