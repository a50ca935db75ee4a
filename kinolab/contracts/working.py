"""How far the work on a folder is, kept in that folder, so that it can be asked for from anywhere (`kinolab status`).

While it works, a command that writes a folder keeps `.working.json` there: what it does, how much of how much is done,
since when, by how many workers, and which process it is. It is a help for people and no part of the result: it says
nothing that a resumed run reads, and a disk that doesn't take it ends nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from kinolab.contracts.events import Outcome, Silent
from kinolab.errors import InputError, Stopped
from kinolab.runtime.paths import WORKING
from kinolab.runtime.processes import Known
from kinolab.runtime.records import read_record, write_record

FILE = WORKING
EVERY = 2.0
"""Seconds between two times that it is written."""
OFTEN = 60.0
"""Seconds between two times that it is put into a store."""
FORMAT = 1


@dataclass(frozen=True)
class Kept:
    """What is kept of some work: `first` of `total` pieces were done when it began, and `done` when it was written.

    outcome: None while it works. begun, written: seconds since 1970. failed: what was left out, in words.
    """

    what: str
    unit: str
    first: int
    done: int
    total: int
    begun: float
    written: float
    workers: int
    process: Known
    outcome: Outcome | None = None
    failed: tuple[str, ...] = ()

    @property
    def rate(self) -> float | None:
        """Pieces a second, of this run; None before there is one."""
        seconds = self.written - self.begun
        return (self.done - self.first) / seconds if self.done > self.first and seconds > 0 else None

    def values(self) -> dict[str, Any]:
        """As it is written."""
        plain = {name: getattr(self, name) for name in ("what", "unit", "first", "done", "total", "workers", "outcome")}
        times = {name: round(getattr(self, name), 3) for name in ("begun", "written")}
        return {"format": FORMAT, **plain, **times, "failed": list(self.failed), "process": self.process.values()}


class Working(Silent):
    """Keeps how far the work on a folder is; used as a context, beside who else listens.

    Nothing is written before the first piece is told of: until then the folder may be somebody else's.

    Args:
        folder: that is worked on.
        what: is done, as "encoding"; unit: what is counted, in the plural.
        workers: who do it.
        put: puts what is written into the store that the folder is one of.
    """

    def __init__(
        self,
        folder: Path,
        what: str,
        unit: str,
        workers: int = 1,
        clock: Callable[[], float] = time.time,
        put: Callable[[], object] | None = None,
    ) -> None:
        self.path, self.what, self.unit, self.workers, self.clock = folder / FILE, what, unit, workers, clock
        self._kept: Kept | None = None
        self._last = 0.0
        self._put, self._was_put = put, -OFTEN
        self._failed: tuple[str, ...] = ()

    def __enter__(self) -> Working:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        stopped = kind is not None and issubclass(kind, Stopped | KeyboardInterrupt)
        self._write("done" if kind is None else "stopped" if stopped else "failed")

    def progress(self, done: int, total: int) -> None:
        """At most every `EVERY` seconds, and the first and the last one."""
        now, kept = self.clock(), self._kept
        if kept is None or done < kept.done or total != kept.total:
            self._last = 0.0
            kept = Kept(self.what, self.unit, done, done, total, now, now, self.workers, Known.this())
        self._kept = replace(kept, done=done, written=now)
        if done >= total or now - self._last >= EVERY:
            self._write()

    def left_out(self, names: tuple[str, ...]) -> None:
        """Say what was left out."""
        self._failed = names

    def _write(self, outcome: Outcome | None = None) -> None:
        if self._kept is None:
            return
        self._last = self._kept.written
        self._kept = replace(self._kept, failed=self._failed, outcome=outcome)
        with suppress(OSError, InputError):  # of a store
            write_record(self.path, self._kept.values())
            if self._put is not None and (outcome is not None or self._last - self._was_put >= OFTEN):
                self._put()
                self._was_put = self._last


def read_working(folder: Path) -> Kept | None:
    """What is kept of the work on a folder; None where there is nothing, or nothing that can be read."""
    try:
        record = read_record(folder / FILE)
        return Kept(
            what=record.text("what"),
            unit=record.text("unit"),
            first=record.integer("first", at_least=0),
            done=record.integer("done", at_least=0),
            total=record.integer("total", at_least=0),
            begun=record.number("begun"),
            written=record.number("written"),
            workers=record.integer("workers", at_least=1),
            process=Known.read(record.record("process")),
            outcome=cast("Outcome | None", record.choice("outcome", ("done", "stopped", "failed"), None)),
            failed=tuple(record.texts("failed")),
        )
    except (InputError, OSError):
        return None
