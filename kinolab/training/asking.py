"""What a person may ask of a training that runs, from another process: save now (SIGUSR1), sample now (SIGUSR2).

    kill -USR1 PROCESS        a checkpoint after the step at hand
    kill -USR2 PROCESS        sample videos after it

Neither changes what is trained: a run that was asked has the weights of one that was not. The studio's buttons send
the same signals. Systems without them have no such asking. A run that may be requeued (`kinolab train --requeue`) ends
after such a checkpoint, as schedulers send SIGUSR1 some time before they take their machines back.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

from kinolab.runtime.interrupts import interruptible

What = Literal["save", "sample"]
SIGNALS: dict[What, str] = {"save": "SIGUSR1", "sample": "SIGUSR2"}
"""What may be asked -> the signal that asks it."""


class Asked:
    """What was asked and is not done yet."""

    def __init__(self, ends: bool = False) -> None:
        """ends: whether being asked to save means to end too, so that a scheduler can start the run again."""
        self._open: set[What] = set()
        self._ends = ends
        self.stop_asked = False  # by Ctrl-C or SIGTERM (`runtime.interrupts`)
        self._saved_to_end = False

    @property
    def any(self) -> bool:
        """Whether something was asked."""
        return bool(self._open)

    @property
    def end(self) -> bool:
        """Whether a signal asked the run to end."""
        return self.stop_asked or self._saved_to_end

    def note(self, what: What) -> None:
        """Something is asked."""
        self._saved_to_end = self._saved_to_end or (self._ends and what == "save")
        self._open.add(what)

    def take(self, what: What) -> bool:
        """Whether something was asked; from then on it is not any more."""
        found = what in self._open
        self._open.discard(what)
        return found


@contextmanager
def heard_from_the_start(requeue: bool) -> Iterator[Asked]:
    """What signals ask, from before the first thing is read: a process that isn't listening yet dies of them.

    With `requeue` SIGTERM is heard as well; else it (and Ctrl-C) ends what has not begun to train at once, for there is
    nothing to save.
    """
    asked = Asked(requeue)
    with hearing(asked), interruptible(asked) if requeue else nullcontext():
        yield asked


@contextmanager
def hearing(asked: Asked) -> Iterator[None]:
    """Hear the signals inside; elsewhere they are as before. Outside the main thread nothing is heard."""
    before = {}
    for what, name in SIGNALS.items():
        number = getattr(signal, name, None)
        if number is not None:
            try:
                before[number] = signal.signal(number, _noting(asked, what))
            except ValueError:  # not the main thread
                break
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _noting(asked: Asked, what: What) -> Any:
    return lambda signum, frame: asked.note(what)
