"""The embedded engine: processes of this machine, which end with the one that began them."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

import torch

from kinolab.contracts.engine import STARTS, Answer, Crew, Each, Engine, Job
from kinolab.engines.serving import served, started
from kinolab.errors import InputError
from kinolab.runtime.processes import forks, packed, unpacked

PRELOAD = ("kinolab.engines.embedded", "kinolab.data.encode", "kinolab.data.scan", "kinolab.models")
"""What the processes have imported when they begin."""
PATIENCE = 5.0
"""Seconds that a process has to end in."""
BREATH = 0.25
"""Seconds between two tries to begin one."""


class Embedded(Engine):
    """Processes of this machine: `--workers N`."""

    def __init__(self, workers: int, place: str = "") -> None:
        super().__init__(workers or 1, place)
        if place:
            raise InputError(f"--engine embedded:{place}: runs on this machine; leave out what is behind the colon")

    def give_each(self, each: Each) -> None:
        """Threads and time; a GPU is no matter of this engine."""
        if each.gpus is not None:
            raise InputError(
                f"--each gpus={each.gpus:g}: is for --engine ray; here each worker takes the next GPU in turn"
            )
        super().give_each(each)

    def crew(self, job: Job, workers: int) -> Crew:
        """Processes, each with its share of this one's threads, or as many as each is given."""
        return Processes(job, self.each.cpus or max(1, torch.get_num_threads() // workers))


@dataclass
class _Process:
    """A process, the pipe to it, and the pipe whose end tells it that this one is gone."""

    process: Any
    pipe: Connection
    life: Connection


class Processes(Crew):
    """The processes of one job."""

    def __init__(self, job: Job, threads: int) -> None:
        self.job, self.threads = packed(job), threads
        self.context = forks(PRELOAD)
        self.processes: dict[int, _Process] = {}

    def begin(self, number: int) -> None:
        """Begin a process."""
        pipe, theirs = self.context.Pipe()
        ended, life = self.context.Pipe(duplex=False)
        for left in reversed(range(STARTS)):
            process = self.context.Process(target=_serve, args=(theirs, ended, number, self.threads), daemon=True)
            try:
                process.start()
                break
            except (EOFError, ConnectionError):  # the server that they are forked from was killed: another begins
                if not left:
                    raise InputError("no process can be begun here (out of memory?); try one: --workers 1") from None
                time.sleep(BREATH)  # one that was killed may take a moment to be gone, and counts as there until then
        theirs.close()
        ended.close()
        self.processes[number] = _Process(process, pipe, life)
        self._send(number, self.job)

    def give(self, number: int, call: Literal["run", "probe"], given: Any) -> None:
        """Send it."""
        self._send(number, packed((call, given)))

    def _send(self, number: int, data: bytes) -> None:
        with suppress(OSError):  # of one that has just died, which `wait` will find
            self.processes[number].pipe.send_bytes(data)

    def wait(self, seconds: float) -> list[Answer]:
        """What the pipes hold; a closed one is a process that has died."""
        by_pipe: dict[Any, int] = {known.pipe: number for number, known in self.processes.items()}
        found = []
        for pipe in wait(list(by_pipe), seconds):
            number = by_pipe[pipe]
            try:
                kind, value = unpacked(self.processes[number].pipe.recv_bytes())
                found.append(Answer(number, kind, value))
            except (EOFError, OSError):
                found.append(Answer(number, "dead", self._how(number)))
        return found

    def _how(self, number: int) -> str:
        """How a process ended; it is forgotten."""
        known = self.processes.pop(number)
        known.process.join(PATIENCE)
        code = known.process.exitcode
        _ended(known)
        if code is not None and code < 0:
            try:
                return f"killed by {signal.Signals(-code).name}"
            except ValueError:
                return f"killed by signal {-code}"
        return "ended" if code is None else f"exit status {code}"

    def dismiss(self, number: int) -> None:
        """Kill it."""
        known = self.processes.pop(number, None)
        if known is not None:
            _ended(known)

    def close(self) -> None:
        """Kill all."""
        for number in list(self.processes):
            self.dismiss(number)


def _ended(known: _Process) -> None:
    """End a process if it still runs, and close what leads to it."""
    if known.process.is_alive():
        known.process.kill()
        known.process.join(PATIENCE)
    known.pipe.close()
    known.life.close()


def _serve(pipe: Connection, life: Connection, number: int, threads: int) -> None:
    """The life of a process: a job, then task after task."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; who began this one decides
    threading.Thread(target=_until_alone, args=(life,), daemon=True).start()
    worker, kind, value = started(unpacked(pipe.recv_bytes()), number, threads)
    pipe.send_bytes(packed((kind, value)))
    while worker is not None:
        try:
            call, given = unpacked(pipe.recv_bytes())
        except EOFError:
            return
        pipe.send_bytes(packed(served(worker, call, given)))


def _until_alone(life: Connection) -> None:
    """End at once when the process that began this one is gone: another may be doing its work already."""
    with suppress(EOFError, OSError):
        life.recv_bytes()
    os._exit(1)
