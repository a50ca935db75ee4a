"""A process that reads one input after the other and says what came of each; it may hang or die, and then another
goes on."""

from __future__ import annotations

import json
import os
import select
import signal
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fuzz import guard
from fuzz.cases import Case, Target, lay_out

SECONDS = 20.0
"""For one input: seconds by the clock, of which the processor has to have worked half, as a machine may be busy."""
LINE = 300
"""Characters of an error's line."""


@dataclass(frozen=True)
class Outcome:
    """What came of an input: refused, accepted, or a finding.

    what: the error's message, or what was found; where: tells kinds of findings apart.
    """

    number: int
    result: str
    what: str = ""
    where: str = ""
    seconds: float = 0.0


def outcomes(
    cases: Iterable[tuple[int, Case]], targets: Mapping[str, Target], seeds: Path, room: Path, seconds: float = SECONDS
) -> Iterator[Outcome]:
    """What comes of each case, read in other processes.

    Args:
        cases: number and case; they are made in the reading process, so that none is sent.
        room: an empty folder to work in.
        seconds: for one input.
    """
    pending = iter(cases)
    worker = None
    for number, case in pending:
        if worker is None:
            worker = _Worker(targets, seeds, room)
        outcome = worker.read(number, case, seconds)
        if not worker.alive:
            worker = None
        yield outcome
    if worker is not None:
        worker.close()


class _Worker:
    """A forked process with a pipe to it, for names of cases, and one from it."""

    def __init__(self, targets: Mapping[str, Target], seeds: Path, room: Path) -> None:
        self.room = room
        requests, self._ask = os.pipe()
        self._answers, results = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child uses none of the parent's
            self.process = os.fork()
        if not self.process:
            os.close(self._ask)
            os.close(self._answers)
            _serve(requests, results, targets, seeds, room)
        os.close(requests)
        os.close(results)
        self.alive = True

    def read(self, number: int, case: Case, seconds: float) -> Outcome:
        path = self.room / "case.json"
        path.write_text(case.text(), encoding="utf-8")
        begin, busy = time.monotonic(), self._busy()
        os.write(self._ask, b"%d\n" % number)
        while not select.select([self._answers], [], [], 0.5)[0]:
            passed, worked = time.monotonic() - begin, self._busy() - busy
            if passed > 3 * seconds or (passed > seconds and worked > seconds / 2):
                os.kill(self.process, signal.SIGKILL)
                self._reap()
                return Outcome(number, "finding", f"hangs: {passed:.0f} s", f"{case.target}: hangs", passed)
        answer = os.read(self._answers, 2**16)
        if not answer:
            status = self._reap()
            what = f"dies of signal {-status}" if status < 0 else f"ends the process with {status}"
            return Outcome(number, "finding", what, f"{case.target}: {what}")
        return Outcome(**json.loads(answer))

    def _busy(self) -> float:
        with open(f"/proc/{self.process}/stat", "rb") as file:
            fields = file.read().rsplit(b")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _reap(self) -> int:
        self.alive = False
        os.close(self._ask)
        os.close(self._answers)
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])

    def close(self) -> None:
        self._reap()


def _serve(requests: int, results: int, targets: Mapping[str, Target], seeds: Path, room: Path) -> None:
    """The child: read the case that lies in the room whenever a number comes; never returns."""
    from fuzz.cases import parse_case

    status = 1
    try:
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        os.chdir(room)
        guard.install()
        guard.limit_memory()
        while number := os.read(requests, 64):
            case = parse_case((room / "case.json").read_text(encoding="utf-8"))
            outcome = read_case(int(number), case, targets[case.target], seeds, room)
            os.write(results, json.dumps(outcome.__dict__).encode())
        status = 0
    finally:
        os._exit(status)


def read_case(number: int, case: Case, target: Target, seeds: Path, room: Path) -> Outcome:
    """Read one input in this process, watched."""
    folder = lay_out(case, seeds, room)
    before, begin = guard.reset_peak(), time.monotonic()
    outside = _listing(room)
    result, what, where = "accepted", "", ""
    with guard.watching(folder, target.outside) as forbidden:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                target.read(folder)
        except BaseException as error:
            result, what, where = _judge(error)
    taken, seconds = guard.peak() - before, time.monotonic() - begin
    if taken > guard.MEMORY:
        result, what, where = "finding", f"takes {taken / 2**30:.1f} GiB", f"{target.name}: memory"
    if _listing(room) != outside:
        result, what, where = "finding", "changes files outside its folder", f"{target.name}: outside"
    if forbidden:
        result, what, where = "finding", forbidden[0], f"{target.name}: {forbidden[0].split(' ')[0]}"
    return Outcome(number, result, what[:1000], where, seconds)


def _judge(error: BaseException) -> tuple[str, str, str]:
    """What an error means: (result, what, where)."""
    from kinolab.cli import one_line, too_large
    from kinolab.errors import InputError

    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/kinolab/" in f.filename] or list(frames)
    place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"
    if isinstance(error, Exception) and too_large(error) is not None:
        return "refused", str(too_large(error)), ""  # as the command line says it; what was taken is measured
    if not isinstance(error, InputError | OSError):
        return "finding", f"{type(error).__name__}: {error} ({place})", f"{type(error).__name__} at {place}"
    text = one_line(error)
    if len(text) > LINE or "\n" in str(error):
        return "finding", f"an error of {len(text)} characters: {text}", f"long line at {place}"
    if not text.strip() or text == "None":
        return "finding", f"an error that says nothing: {error!r}", f"no words at {place}"
    return "refused", text, ""


def _listing(room: Path) -> list[tuple[str, int, int]]:
    """What lies beside the folder that is read."""
    with os.scandir(room) as entries:
        found = [(e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in entries if e.name != "in"]
    return sorted(found)
