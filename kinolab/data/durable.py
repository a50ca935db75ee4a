"""Writing that survives a kill or a power cut: whole files, appended lines, one writer at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kinolab.errors import InputError


def write_atomic(path: Path, text: str) -> None:
    """Write a small file so that it is there whole or not at all, also after a power cut; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def append_line(path: Path, line: str) -> None:
    """Append one line, on disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system allows opening folders."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the cache's folder for writing; the system lets go of it when the process ends, however it ends."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: a file; expected a folder to write the latent cache in")
    strange = [f.name for f in out.glob("*") if not f.name.startswith(".") and f.name != "shards"]
    if strange and not (out / "cache.json").exists():
        raise InputError(f"{out}: holds other files and no cache.json; choose an empty or new folder")
    (out / "shards").mkdir(parents=True, exist_ok=True)
    with held(out / ".lock", f"{out}: another kinolab encode is writing this cache"):
        yield


@contextmanager
def held(lock: Path, otherwise: str | None) -> Iterator[None]:
    """Hold a lock file; the system lets go of it when the process ends, however it ends.

    Where another process (or another place in this one) holds it: without `otherwise`, wait until it lets go.

    Raises:
        InputError: with the text `otherwise`, where the lock is held.
    """
    with lock.open("w") as file:
        try:
            import fcntl
        except ImportError:  # no such locks on Windows; two writers there are up to the user
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if otherwise is None else fcntl.LOCK_NB))
        except BlockingIOError:
            raise InputError(otherwise) from None
        yield
