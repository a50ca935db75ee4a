"""What a person at the command line hears of work that takes long: what it will take, how far it is, what is cheaper.

`Reporter` reads what `kinolab.contracts.events` tells. In a terminal it shows a bar; elsewhere it writes a plain
line every few seconds, from a thread of its own, so that a line comes also while the first piece of work takes long.
What is done within `WORTH` seconds passes without a word.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TextIO

WORTH = 10.0
"""Seconds from which on it is said what the work will take."""
FIRST = 2.0
"""Seconds after which the first line may come."""
EVERY = 5.0
"""Seconds between two plain lines; a fiftieth of the time so far where that is more, up to half a minute."""
START = 0.1
"""Pieces of which less tells nothing yet, as it is the start of one (a first strip said 10 h of 20 min)."""
DEAR = 60.0
"""Seconds from which on a cheaper way is named."""


@dataclass(frozen=True)
class Cost:
    """What work takes in all: seconds, bytes of memory, bytes of disk; None = not known."""

    seconds: float | None = None
    memory: int | None = None
    disk: int | None = None

    def __str__(self) -> str:
        parts = [
            None if self.seconds is None else f"about {duration(self.seconds)}",
            None if self.memory is None else f"{size(self.memory)} of memory",
            None if self.disk is None else f"{size(self.disk)} of disk",
        ]
        return ", ".join(part for part in parts if part is not None)


class Reporter:
    """Events for a person, on standard error; used as a context.

    Args:
        title: what is done, as "reconstructing".
        unit: what is counted, in the plural, as "frames".
        cheaper: from the seconds that are expected, what would take less; asked where they are more than `DEAR`.
        memory: the most bytes of memory that the process has held so far.
        keeps: what Ctrl-C leaves, as "the frames so far". With it, the first Ctrl-C asks the work to end and keep that,
            and the second one ends it at once; without, the first one does.
    """

    expecting = True

    def __init__(
        self,
        title: str,
        unit: str = "",
        *,
        cheaper: Callable[[float], str] | None = None,
        memory: Callable[[], int | None] = lambda: None,
        keeps: str = "",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title, self.unit, self.cheaper, self.memory, self.keeps = title, unit, cheaper, memory, keeps
        self.stream, self.clock = sys.stderr if stream is None else stream, clock
        self.done, self.total, self.stopping = 0, 0, False
        self._began = self._last = self._since = self._reached = clock()
        self._expected: Cost | None = None
        self._first = (0, self._began)
        self._within = (0.0, self._began)
        self._said, self._foretold, self._advised = False, False, False
        self._bar: Any = None
        self._task: Any = None
        self._lock, self._ended = threading.RLock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._before: Any = None

    def __enter__(self) -> Reporter:
        self._began = self._last = self._since = self._reached = self.clock()
        if self.stream.isatty():
            self._bar, self._task = _bar(self.title, self.stream)
            self._bar.start()
        self._thread = threading.Thread(target=self._watch, name="kinolab-progress", daemon=True)
        self._thread.start()
        if self.keeps and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
        if self._bar is not None:
            self._bar.stop()

    def progress(self, done: int, total: int) -> None:
        """So many of so many are done."""
        with self._lock:
            if done < self.done:  # the next part of the work, of which nothing is expected yet
                self._expected = None
            if not done or done < self.done:
                self._since = self.clock()
                self._first, self._within = (0, self._since), (0.0, self._since)
            elif not self._first[0]:
                self._first = (done, self.clock())
            self.done, self.total, self._reached = done, total, self.clock()
            if self._bar is not None:
                self._bar.update(self._task, completed=done, total=total)
            self.beat()

    def within(self, reached: float, total: int) -> None:
        """How far the work is, parts of the piece at work included: told where a piece takes long."""
        with self._lock:
            self._within, self.total = (reached, self.clock()), total
            if self._bar is not None and reached > self.done:
                self._bar.update(self._task, completed=reached, total=total)
            self.beat()

    def note(self, text: str) -> None:
        """Something that a person should know now."""
        with self._lock:
            self._print(text)

    def expect(self, cost: Cost, by: str = "", cheaper: Callable[[float], str] | None = None) -> None:
        """What the whole will take, before a piece of it is done."""
        with self._lock:
            self._expected = cost
            if cheaper is not None:
                self.cheaper, self._advised = cheaper, False
            if cost.seconds is not None and cost.seconds >= WORTH:
                self._print(f"{cost}" + (f" (told by {by})" if by else "") + self._advice(cost.seconds))

    def losses(self, step: int, numbers: Mapping[str, float], of: str = "step") -> None:
        """Nothing that counts pieces has any."""

    def wrote(self, path: Path, what: str = "file") -> None:
        """Files are named when the work is done."""

    def beat(self) -> None:
        """Say what is due; the thread asks every second, and whoever reports progress."""
        with self._lock:
            now = self.clock()
            passed = now - self._began
            each = self._each()
            due = not self._said and (self.done or not self._foretold)
            if due and each is not None and passed >= FIRST and now > self._since:
                self._foretold, self._said = True, bool(self.done)
                self._tell(self._reached - self._since + each * (self.total - self.done), now)
            if self._bar is None and now - self._last >= max(EVERY, min(30.0, passed / 50)):
                self._last = now
                self._print(self._state(now))

    def _tell(self, whole: float, now: float) -> None:
        """Say what the whole takes, unless it is short, or known and as was said."""
        if whole < WORTH or self.total <= self.done:
            return
        known = self._told(whole)
        cost = Cost(None if known else whole, self.memory())
        if not known:
            self._advised = False  # by the better number
            self._print(f"{cost} for {self._counted(self.total)}{self._advice(whole)}")
            self._last, self._expected = now, cost
        elif cost.memory is not None:
            self._print(f"{cost} so far")

    def _each(self) -> float | None:
        """Seconds of a piece, from those that are done; None where these tell nothing of the others.

        The first piece sets kernels up, reads weights, or measures the precision, and may take many times as long as
        another: it tells what a piece takes only where it takes long itself.
        """
        first, then = self._first
        if not self.done:
            reached, at = self._within
            return (at - self._since) / reached if reached >= START and at - self._since >= EVERY else None
        if self.done > first > 0:
            return (self._reached - then) / (self.done - first)
        return (then - self._since) / first if first and then - self._since >= WORTH else None

    def _told(self, whole: float) -> bool:
        """Whether what was expected before is about what it turns out to be."""
        before = None if self._expected is None else self._expected.seconds
        return before is not None and before / 2 < whole < before * 2

    def _state(self, now: float) -> str:
        """How far the work is, and what is left."""
        each = self._each()
        if each is None:
            left = None if self._expected is None else self._expected.seconds
            left = None if left is None else left - (now - self._began)
            rest = "" if left is None or left <= 0 else f", about {duration(left)} left"
            far = f"{self.done} of {self._counted(self.total)}" if self.done else None
            return f"{far or f'at work for {duration(now - self._began)}'}{rest}"
        if not self.done:
            reached, at = self._within
            left = each * (self.total - reached) - (now - at)
            rest = f", about {duration(left)} left" if left >= 1 else ""
            return f"{reached:.1f} of {self._counted(self.total)}{rest}"
        # By the pieces that are done: the one at work would make what is left grow until it is done.
        left = each * (self.total - self.done) - (now - self._reached)
        return f"{self.done} of {self._counted(self.total)}" + (f", about {duration(left)} left" if left >= 1 else "")

    def _counted(self, count: int) -> str:
        return f"{count} {self.unit}".rstrip()

    def _advice(self, seconds: float) -> str:
        if self.cheaper is None or seconds < DEAR or self._advised:
            return ""
        self._advised = True
        text = self.cheaper(seconds)
        return f"; {text}" if text else ""

    def _print(self, text: str) -> None:
        line = f"{self.title}: {text}"
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, soft_wrap=True, markup=False)
        else:
            print(line, file=self.stream, flush=True)

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            self.beat()

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self.stopping:
            raise KeyboardInterrupt
        self.stopping = True
        # No lock is waited for here: the signal may have come while this thread holds it (it may be taken again).
        self._print(f"ending, and keeping {self.keeps}; Ctrl-C again ends at once and keeps nothing")


def _bar(title: str, stream: TextIO) -> tuple[Any, Any]:
    """rich's bar, and its only task."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(file=stream), transient=True)
    return bar, bar.add_task(title, total=None)


def scaled(cost: Cost, factor: float) -> Cost:
    """The cost of work that takes `factor` times as long."""
    return replace(cost, seconds=None if cost.seconds is None else cost.seconds * factor)


def duration(seconds: float) -> str:
    """`40 s`, `3 min`, `2 h 10 min`, `3 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h" + (f" {rest} min" if rest and hours < 10 else "")
    return f"{round(hours / 24)} days"


def size(count: float) -> str:
    """`640 MB`, `2.1 GB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
