"""Lines at the end of a log: appended whole and flushed; what a kill or a power cut tore is cut off again."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from kinolab.runtime import system
from kinolab.runtime.failures import failing
from kinolab.runtime.files import check_target, flush, make_folder

TORN = 2**16
"""Bytes that are read at once to find where a torn last line begins."""


class Appender:
    """Lines at the end of a file; a last line that a kill or a power cut tore is cut off first.

    One process writes a log at a time; keep others out by a lock (`runtime.locks`).

    Args:
        path: the file; made, with its folder, where it is missing.
        durable: every line is on the disk when `write` returns; else when the file is closed or flushed.

    Raises:
        OSError: where it can't be written; from then on nothing more is appended to a torn line.
    """

    def __init__(self, path: Path, durable: bool = True) -> None:
        self.path, self.durable = path, durable
        self._descriptor = -1
        with failing(path):
            self._open(path)

    def _open(self, path: Path) -> None:
        """Open the file and cut off its torn last line."""
        check_target(path)
        make_folder(path.parent)
        calls, new = system.calls(), not path.exists()
        self._descriptor = calls.open(path, system.APPEND)
        try:
            size = os.fstat(self._descriptor).st_size
            self._whole = _whole_lines(self._descriptor, size)
            if self._whole < size:
                calls.truncate(self._descriptor, self._whole, path)
            if new:
                calls.flush(self._descriptor, path)
                flush(path.parent)
        except BaseException:
            self.close()
            raise

    def write(self, line: str) -> None:
        """Append one line; its end is added. Cut off again where the disk takes only a part of it."""
        data = memoryview(line.rstrip("\n").encode("utf-8") + b"\n")
        calls = system.calls()
        with failing(self.path):
            try:
                done = 0
                while done < len(data):
                    done += calls.write(self._descriptor, data[done:], self.path)
                if self.durable:
                    calls.flush(self._descriptor, self.path)
            except OSError:
                with suppress(OSError):
                    calls.truncate(self._descriptor, self._whole, self.path)
                raise
        self._whole += len(data)

    def flush(self) -> None:
        """Have all lines on the disk."""
        with failing(self.path):
            system.calls().flush(self._descriptor, self.path)

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with failing(self.path):
                system.calls().close(descriptor, self.path)

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def append_line(path: Path, line: str) -> None:
    """Append one line to a file that is rarely written; on the disk when this returns.

    Raises:
        OSError: where it can't be written.
    """
    with Appender(path) as file:
        file.write(line)


def _whole_lines(descriptor: int, size: int) -> int:
    """How many bytes of a file end with its last whole line."""
    end = size
    while end > 0:
        begin = max(0, end - TORN)
        os.lseek(descriptor, begin, os.SEEK_SET)
        found = os.read(descriptor, end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0
