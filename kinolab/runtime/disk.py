"""What a disk says when it can't take more: one error that names the place and the cause, whatever library wrote."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIGNS = {
    errno.ENOSPC: ("no space left", "os error 28", "errno 28"),
    errno.EDQUOT: ("disk quota exceeded", "os error 122", "errno 122"),
    errno.EFBIG: ("file too large", "os error 27", "errno 27"),
    errno.EROFS: ("read-only file system", "os error 30", "errno 30"),
    errno.EACCES: ("permission denied", "os error 13", "errno 13"),
    errno.EIO: ("input/output error", "os error 5)", "errno 5]"),
}
"""How libraries that have an error class of their own write the system's errors."""
SHORT_WRITES = ("pytorchstreamwriter failed writing file", "unexpected pos", "failed to write", "short write")
"""What libraries say of a file that took less than was given, without the system's cause."""


@contextmanager
def writing(path: Path | str, what: str = "") -> Iterator[None]:
    """Inside, an error of a full or failing disk becomes an OSError whose file is `path`; all others pass as they are.

    safetensors and torch raise errors of their own for a full disk, of which neither names the file; Python's own name
    no file where a file that is open can't be written on. The command line says an OSError in one line.

    Args:
        what: is written there, for a place that a person did not name.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or (error.filename is not None and not what):
            raise
        raise _said(error.errno, path, what) from error
    except Exception as error:
        number = cause(error, path)
        if number is None:
            raise
        raise _said(number, path, what) from error


def cause(error: BaseException, path: Path | str) -> int | None:
    """The system's number of the error that a library wraps, by its words; None where it is something else.

    For words that say only that a write fell short, a disk without space is what can be seen afterwards.
    """
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) and chain.errno is not None:
            return chain.errno
        text = str(chain).lower()
        for number, signs in SIGNS.items():
            if any(sign in text for sign in signs):
                return number
        if any(sign in text for sign in SHORT_WRITES):
            return errno.ENOSPC
        chain = chain.__cause__ or chain.__context__
    return None


def _said(number: int, path: Path | str, what: str) -> OSError:
    text = os.strerror(number)
    return OSError(number, f"{text} ({what})" if what else text, str(path))
