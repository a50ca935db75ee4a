"""One writer at a time: lock files that the system lets go of when a process ends, however it ends."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from kinolab.errors import InputError
from kinolab.runtime import system
from kinolab.runtime.files import make_folder
from kinolab.runtime.lines import one_line

SIGN = '{"kinolab": '
"""What the note about the holder begins with; any other content of a lock file is not ours to overwrite."""
LONGEST = 1000
POLL = 0.05
"""Seconds between two tries while waiting."""


@contextmanager
def held(path: Path, otherwise: str | None = None) -> Iterator[None]:
    """Hold a lock file, which is made with its folder and stays; while it is held, its text says by whom.

    Args:
        path: the lock file.
        otherwise: what is said where another process, or another place in this one, holds it; who it is gets added.
            None = wait until it is let go of.

    Raises:
        InputError: with the text `otherwise`, where the lock is held.
        OSError: where there can be no lock: a link of that name, a folder that can't be written.
    """
    make_folder(path.parent)
    if path.is_symlink():
        raise OSError(errno.ELOOP, "a link where a lock file is expected", str(path))
    lock = FileLock(path, thread_local=False, poll_interval=POLL)
    try:
        lock.acquire(timeout=-1 if otherwise is None else 0)
    except Timeout:
        raise InputError(f"{otherwise}{_by(path)}") from None
    try:
        _sign(path)
        yield
    finally:
        lock.release()


def holder(path: Path) -> str | None:
    """Who took a lock last, in words: `process 4711 on lab3 since 14:05`; None where its file doesn't say."""
    try:
        descriptor = os.open(path, system.EXISTING)
        try:
            text = os.read(descriptor, LONGEST).decode("utf-8", "replace")
        finally:
            os.close(descriptor)
        record = json.loads(text) if text.startswith(SIGN) else {}
        process, host, since = (record["kinolab"][k] for k in ("process", "host", "since"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return one_line(f"process {process} on {host} since {since}", 120)


def _by(path: Path) -> str:
    known = holder(path)
    return f" ({known})" if known else ""


def _sign(path: Path) -> None:
    """Write into a held lock file who holds it: a help for people; where that fails, the lock holds all the same."""
    note = {"process": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M}"}
    data = (json.dumps({"kinolab": note}) + "\n").encode()
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
        try:
            before = os.read(descriptor, len(SIGN))
            if before and before != SIGN.encode():
                return
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, data)
            os.ftruncate(descriptor, len(data))
        finally:
            os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether somebody holds a lock file now. Nothing is written or made; a missing file is held by nobody.

    Asked by a shared lock, so that many may ask at once; whoever takes the lock while it is asked waits a moment.

    Raises:
        OSError: where the file can't be opened: a link, or without permission.
    """
    try:
        descriptor = os.open(path, system.EXISTING)
    except FileNotFoundError:
        return False
    try:
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
    finally:
        os.close(descriptor)
