"""One kind of error for a disk that can't take more, or give what it holds: OSError with the path and the number.

safetensors and torch raise errors of their own for a full disk, with the system's number in their words or without;
handles that are open name no file at all. Here they become what the operating system meant.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from kinolab.errors import InputError

WORDS = {
    errno.ENOSPC: "no space left on device",
    errno.EDQUOT: "disk quota exceeded",
    errno.EIO: "input/output error",
    errno.EROFS: "read-only file system",
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
    errno.EFBIG: "file too large",
    errno.ENOENT: "no such file or directory",
}
"""What libraries write where they swallow the system's number."""
SHORT = re.compile(r"PytorchStreamWriter failed|inline_container\.cc.*unexpected pos|short write", re.IGNORECASE)
"""What they say of a write that fell short, with neither number nor cause."""


class Remembers(Protocol):
    """A handle that remembers the first error of the disk (`handles.Handle`)."""

    failed: OSError | None


@contextmanager
def failing(path: Path, aside: Path | None = None, handle: Remembers | None = None) -> Iterator[None]:
    """Errors inside that are really the disk's become OSError with `path` and the system's number; others pass.

    Args:
        path: what is written (or read) inside.
        aside: the temporary name it is written under, which no error should show.
        handle: what it is written through; an error that this remembers is the cause of whatever a library raised.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        named = error.filename if isinstance(error, OSError) else None
        if named is not None and (aside is None or str(aside) not in str(named)):
            raise  # of another file, which it names
        cause = handle.failed if handle is not None and handle.failed is not None else error
        number = disk_error(cause, path)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def disk_error(error: BaseException, path: Path) -> int | None:
    """The system's number of the disk's error that a library's error stands for; None where it stands for none."""
    if isinstance(error, OSError):
        return error.errno
    text = str(error)
    found = re.search(r"\bos error (\d+)\b|\[Errno (\d+)\]", text)
    if found:
        return int(found[1] or found[2])
    number = next((n for n, words in WORDS.items() if words in text.lower()), None)
    if number is None and isinstance(error, RuntimeError) and SHORT.search(text):
        number = _why_short(path)
    return number


def _why_short(path: Path) -> int:
    """Why a write fell short, as far as can be seen afterwards: no space, or a fault of the disk."""
    try:
        state = os.statvfs(path.parent)
    except (OSError, AttributeError):
        return errno.EIO
    return errno.ENOSPC if state.f_bavail * state.f_frsize < 2**24 or state.f_favail == 0 else errno.EIO
