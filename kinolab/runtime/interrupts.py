"""Ctrl-C and SIGTERM as a wish that work ends after the piece it is at, with what is done kept whole."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

REQUEUE = 75
"""The exit status of a run that a signal stopped, saved, and that is to be started again (EX_TEMPFAIL, sysexits.h)."""
REQUEUE_FILE = "requeue"
"""The file that such a run leaves in its folder, for torchrun hands no status of its processes on."""
POISONED = 3
"""The exit status where all is done but what ended every worker that tried it, or can't be done; it is named."""


class Stoppable(Protocol):
    """What can be asked to stop."""

    stop_asked: bool


class Asked:
    """Whether somebody asked."""

    stop_asked = False


@contextmanager
def interruptible(work: Stoppable) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask `work` to stop; a second one stops at once."""

    def ask(signum: int, frame: Any) -> None:
        if work.stop_asked:
            raise KeyboardInterrupt
        work.stop_asked = True

    try:
        before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: nothing to catch there
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
