"""What work that takes long tells while it works, and the one thing that it asks: whether to stop.

Work takes `events` and tells it progress, notes, losses and files; who listens is the caller's: a person at a terminal
(`kinolab.runtime.progress.Reporter`), a file of JSON lines (`EventLines`), a plain callback in a notebook (`Callback`),
or nobody. Asked to stop, work leaves what is done whole, so that the same call goes on from there: a training saves
and returns, everything else raises `Stopped` between two pieces.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

from kinolab.errors import Stopped

if TYPE_CHECKING:
    from kinolab.runtime.progress import Cost

Losses = Literal["step", "train", "heldout"]
"""What numbers are of: one step, the mean since the last such line of the run's log, or data that is not trained on."""
Outcome = Literal["done", "stopped", "failed"]
Cheaper = Callable[[float], str] | None
"""From the seconds that are expected, what would take less."""
SELDOM = 0.5
"""Seconds between two lines of progress in a file; the first and the last are always there."""


class Events(Protocol):
    """What work that takes long tells whoever listens, and the one thing that it asks."""

    def progress(self, done: int, total: int) -> None:
        """So many of so many pieces are done."""

    def note(self, text: str) -> None:
        """Something that a person should know now."""

    def within(self, reached: float, total: int) -> None:
        """How far the work is, parts of the piece at work included."""

    def expect(self, cost: Cost, by: str = "", cheaper: Cheaper = None) -> None:
        """What the whole will take, as far as it can be told before a piece is done.

        by: what that is told by; cheaper: from the seconds that are expected, what would take less.
        """

    def losses(self, step: int, numbers: Mapping[str, float], of: Losses = "step") -> None:
        """Numbers of a training after so many steps."""

    def wrote(self, path: Path, what: str = "file") -> None:
        """A file or folder is whole under its final name; what: file, sample, checkpoint, model, shard, ..."""

    @property
    def stopping(self) -> bool:
        """Whether the work should end after the piece it is at, and keep what is done."""

    @property
    def expecting(self) -> bool:
        """Whether anyone wants to hear beforehand what the work will take, though a small piece is measured for it."""


class Silent:
    """Events that nobody hears and that never stop: what a reader that hears only some of them begins with."""

    @property
    def stopping(self) -> bool:
        """Never."""
        return False

    @property
    def expecting(self) -> bool:
        """No."""
        return False

    def progress(self, done: int, total: int) -> None:
        """Nobody listens."""

    def note(self, text: str) -> None:
        """Nobody listens."""

    def within(self, reached: float, total: int) -> None:
        """Nobody listens."""

    def expect(self, cost: Cost, by: str = "", cheaper: Cheaper = None) -> None:
        """Nobody listens."""

    def losses(self, step: int, numbers: Mapping[str, float], of: Losses = "step") -> None:
        """Nobody listens."""

    def wrote(self, path: Path, what: str = "file") -> None:
        """Nobody listens."""


class Callback(Silent):
    """Events of which a plain callback (done, total) hears the progress."""

    def __init__(self, callback: Callable[[int, int], object]) -> None:
        self.callback = callback

    def progress(self, done: int, total: int) -> None:
        """Pass it on."""
        self.callback(done, total)


Listener = Events | Callable[[int, int], object] | None
"""Who listens, as callers of the library may say it: events, a plain callback (done, total), or nobody."""


def events_of(listener: Listener) -> Events:
    """The events of a listener: itself, those that a plain callback takes, or those that nobody hears."""
    if listener is None:
        return Silent()
    return cast(Events, listener) if hasattr(listener, "stopping") else Callback(cast(Any, listener))


def advance(events: Events, done: int, total: int) -> None:
    """Tell that so many of so many pieces are done, and stop there if that is asked and something is left.

    Raises:
        Stopped: between two pieces.
    """
    events.progress(done, total)
    if done < total:
        proceed(events)


def proceed(events: Events) -> None:
    """Go on, unless it is asked to stop.

    Raises:
        Stopped: where it is.
    """
    if events.stopping:
        raise Stopped("stopped, as asked; what is done is whole, and the same call goes on from there")


class Share(Silent):
    """The events of work that is a part of a larger one: its progress is told as the whole's.

    Args:
        events: of the whole.
        base: pieces of the whole that are done before this part.
        more: pieces of the whole that this part is.
        total: pieces of the whole.
    """

    def __init__(self, events: Events, base: int, more: int, total: int) -> None:
        self.events, self.base, self.more, self.total = events, base, more, total

    @property
    def stopping(self) -> bool:
        """Whether the whole should stop."""
        return self.events.stopping

    def progress(self, done: int, total: int) -> None:
        """As a share of the whole."""
        self.events.progress(self.base + self.more * done // max(total, 1), self.total)

    def note(self, text: str) -> None:
        """As the whole's."""
        self.events.note(text)

    def wrote(self, path: Path, what: str = "file") -> None:
        """As the whole's."""
        self.events.wrote(path, what)


class Turn(Share):
    """The events of one of several parts that count alike, such as the steps of each window of a video.

    Args:
        events: of the whole.
        number: of this part, from 0.
        count: parts in all.
    """

    def __init__(self, events: Events, number: int, count: int) -> None:
        super().__init__(events, number, 1, count)

    def progress(self, done: int, total: int) -> None:
        """In the part's own pieces."""
        self.events.progress(self.base * total + done, self.total * total)


class Several(Silent):
    """One reader of events made of several; it stops where any of them does."""

    def __init__(self, *readers: Events) -> None:
        self.readers = readers

    @property
    def stopping(self) -> bool:
        """Whether any reader asks for it."""
        return any(reader.stopping for reader in self.readers)

    @property
    def expecting(self) -> bool:
        """Whether any reader does."""
        return any(reader.expecting for reader in self.readers)

    def progress(self, done: int, total: int) -> None:
        """To all."""
        for reader in self.readers:
            reader.progress(done, total)

    def note(self, text: str) -> None:
        """To all."""
        for reader in self.readers:
            reader.note(text)

    def within(self, reached: float, total: int) -> None:
        """To all."""
        for reader in self.readers:
            reader.within(reached, total)

    def expect(self, cost: Cost, by: str = "", cheaper: Cheaper = None) -> None:
        """To all."""
        for reader in self.readers:
            reader.expect(cost, by, cheaper)

    def losses(self, step: int, numbers: Mapping[str, float], of: Losses = "step") -> None:
        """To all."""
        for reader in self.readers:
            reader.losses(step, numbers, of)

    def wrote(self, path: Path, what: str = "file") -> None:
        """To all."""
        for reader in self.readers:
            reader.wrote(path, what)


class Records(Silent):
    """Events as plain records, each with its `kind` and `time`, for whatever takes them: a file, a page, a notebook.

    The kinds: begin (command, version), stage (title, unit), expect (seconds, memory, disk, by, cheaper),
    progress (title, done, total, unit), note (text), losses (step, of, numbers), file (path, what), and
    end (outcome, message). Of a training's steps only the means of its log become records.

    Args:
        hear: called with each record.
        clock: seconds since 1970.
    """

    def __init__(self, hear: Callable[[dict[str, Any]], object], clock: Callable[[], float] = time.time) -> None:
        self.hear, self.clock = hear, clock
        self.title, self.unit, self._last = "", "", float("-inf")

    def begin(self, command: str, version: str) -> None:
        """A command begins."""
        self._tell("begin", command=command, version=version)

    def stage(self, title: str, unit: str = "") -> None:
        """What is done from here on, and what its progress counts."""
        self.title, self.unit, self._last = title, unit, float("-inf")
        self._tell("stage", title=title, unit=unit)

    def progress(self, done: int, total: int) -> None:
        """At most every `SELDOM` seconds, and the last one."""
        now = self.clock()
        if done >= total or now - self._last >= SELDOM:
            self._last = now
            self._tell("progress", title=self.title, done=done, total=total, unit=self.unit)

    def note(self, text: str) -> None:
        """One record."""
        self._tell("note", text=text)

    def expect(self, cost: Cost, by: str = "", cheaper: Cheaper = None) -> None:
        """One record."""
        less = "" if cheaper is None or cost.seconds is None else cheaper(cost.seconds)
        self._tell("expect", **asdict(cost), by=by, cheaper=less)

    def losses(self, step: int, numbers: Mapping[str, float], of: Losses = "step") -> None:
        """One record for what stands in the run's log."""
        if of != "step":
            finite = {
                name: value if math.isfinite(value) else None for name, value in numbers.items()
            }  # JSON has no NaN
            self._tell("losses", step=step, of=of, numbers=finite)

    def wrote(self, path: Path, what: str = "file") -> None:
        """One record."""
        self._tell("file", path=str(path), what=what)

    def end(self, outcome: Outcome, message: str = "") -> None:
        """A command has ended."""
        self._tell("end", outcome=outcome, message=message)

    def _tell(self, kind: str, **values: Any) -> None:
        self.hear({"kind": kind, "time": round(self.clock(), 3), **values})


E = TypeVar("E", bound="EventLines")


class EventLines(Records):
    """Events as JSON lines at the end of a file, each whole; used as a context.

    Raises:
        OSError: where the file can't be written.
    """

    def __init__(self, path: Path) -> None:
        from kinolab.runtime.logs import Appender  # here, so that a command without such a file starts sooner

        # Not flushed to the disk line by line: whoever reads along sees a line at once, and a power cut ends the work.
        self._file = Appender(path, durable=False)
        super().__init__(lambda record: self._file.write(json.dumps(record)))

    def __enter__(self: E) -> E:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
