"""Every call by which Kinolab changes what is on a disk, in one object, so that a test can stand in for the disk.

`runtime.files` and `runtime.sets` change nothing but through `calls()`. A test replaces it with one that stops at the
n-th call, that answers with an error, or that forgets what was not flushed, and so goes through every moment at which a
kill, a full disk or a power cut can come. Reading goes around it: it changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

CREATE = (
    os.O_CREAT
    | os.O_EXCL
    | os.O_RDWR
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
"""How a new file is opened: it must not exist, not even as a link that leads nowhere."""
EXISTING = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""How a file that was just written is opened again, to be flushed or hashed."""
APPEND = (
    os.O_CREAT
    | os.O_APPEND
    | os.O_RDWR
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


class Calls:
    """The operating system's calls, as they are; every one raises OSError with the path it was about."""

    def open(self, path: Path, flags: int, mode: int = 0o666) -> int:
        """A descriptor; a new file gets `mode` less the umask."""
        return os.open(path, flags, mode)

    def write(self, descriptor: int, data: memoryview, path: Path) -> int:
        """Write a part of `data`; how many bytes of it."""
        return os.write(descriptor, data)

    def truncate(self, descriptor: int, size: int, path: Path) -> None:
        """Cut an open file to `size` bytes."""
        os.ftruncate(descriptor, size)

    def chmod(self, path: Path, mode: int) -> None:
        """Set the permissions of a file or folder."""
        os.chmod(path, mode)

    def flush(self, descriptor: int, path: Path) -> None:
        """Have an open file's content, or a folder's names, on the disk when this returns."""
        full = _full_flush()
        if full is not None:
            full(descriptor)
        else:
            os.fsync(descriptor)

    def close(self, descriptor: int, path: Path) -> None:
        """Close a descriptor."""
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give `source` the name `target`, in place of what has it; all at once."""
        os.replace(source, target)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name, which must be free."""
        os.link(source, target, follow_symlinks=False)

    def unlink(self, path: Path) -> None:
        """Remove a file's or link's name."""
        os.unlink(path)

    def mkdir(self, path: Path, mode: int = 0o777) -> None:
        """Make a folder, which must not exist."""
        os.mkdir(path, mode)

    def rmdir(self, path: Path) -> None:
        """Remove an empty folder."""
        os.rmdir(path)

    def library(self, path: Path) -> None:
        """A library is about to write at `path` (or below it), by calls of its own that nothing here sees."""

    def written(self, path: Path) -> None:
        """The library is done."""


_calls = Calls()


def calls() -> Calls:
    """The calls in use."""
    return _calls


@contextmanager
def replaced(other: Calls) -> Iterator[None]:
    """Use other calls inside, in every thread; for tests."""
    global _calls
    before, _calls = _calls, other
    try:
        yield
    finally:
        _calls = before


@cache
def _full_flush() -> Callable[[int], None] | None:
    """macOS keeps flushed data in the drive's own cache unless it is asked otherwise."""
    try:
        import fcntl

        number: int = fcntl.F_FULLFSYNC  # type: ignore[attr-defined,unused-ignore]
    except (ImportError, AttributeError):
        return None

    def flush(descriptor: int) -> None:
        try:
            fcntl.fcntl(descriptor, number)
        except OSError:  # a network folder, which knows only the plain call
            os.fsync(descriptor)

    return flush
