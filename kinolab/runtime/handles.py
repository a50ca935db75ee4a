"""The handle of a file that is being written aside (`kinolab.runtime.files`)."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import cast

from kinolab.runtime import system
from kinolab.runtime.failures import failing


class Handle(io.RawIOBase):
    """A new file under a temporary name, written through `system.calls()`; remembers the first error of the disk.

    Libraries wrap errors of the handles that they are given in errors of their own; `failing` raises what is
    remembered here instead.
    """

    def __init__(self, aside: Path, path: Path) -> None:
        self.path, self.failed = path, cast("OSError | None", None)
        with failing(path, aside):
            self._descriptor = system.calls().open(aside, system.CREATE)

    def write(self, data: object) -> int:
        try:
            return system.calls().write(self._descriptor, memoryview(data).cast("B"), self.path)  # type: ignore[arg-type]
        except OSError as error:
            self.failed = self.failed or error
            raise

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = os.read(self._descriptor, len(view))
        view[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self._descriptor, offset, whence)

    def truncate(self, size: int | None = None) -> int:
        wanted = self.tell() if size is None else size
        system.calls().truncate(self._descriptor, wanted, self.path)
        return wanted

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        if not self.closed and getattr(self, "_descriptor", -1) >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            system.calls().close(descriptor, self.path)
        super().close()

    def discard(self) -> None:
        """Close without a word, after an error; what a buffer above still holds is lost."""
        with suppress(OSError, ValueError):
            self.close()
