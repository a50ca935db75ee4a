"""What can be had again, on so much of this machine's disk and no more: what was used longest ago goes first.

    kept = Kept(folder, limit=20 * 10**9)
    data = kept.data("shard 3, row 7", fetch_row)             # bytes, checked by a sum whenever they are read
    with kept.place("clip 3", size, fetch_clip) as folder:    # files, which nobody removes inside the block

Any number of processes share a folder. Nothing is flushed that a sum can tell from what was written, and a disk that is
full keeps no more: all of it lies elsewhere too.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kinolab.errors import InputError
from kinolab.runtime import files, leftovers, system
from kinolab.runtime.hashes import sha256
from kinolab.runtime.leftovers import remove
from kinolab.runtime.locks import held

SHARE = 16
"""Processes that may put things between two looks at the folder, each its share of what is free, within the limit."""
FULL, AFTER = 7 / 8, 3 / 4
"""Of the limit: above the first, what is oldest goes until the second is left."""
BLOCK = 4096
"""Bytes that a disk gives a file at least."""
SPARE = 64 * 2**20
"""Bytes of the disk that are left free."""
TRIES = 5
"""Times that something is fetched which others remove at once."""
SUM = 4
"""Bytes of the sum in front of what is kept."""


class Kept:
    """A folder of bounded size.

    Args:
        folder: made when something is put there; nothing else may lie in it.
        limit: bytes. What is in use stays whatever it takes, and each process may be at one thing more.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._room = 0

    def data(self, key: str, get: Callable[[], bytes]) -> bytes:
        """The bytes of a key: as they are here, else as `get` gives them, which are kept from then on."""
        path = self._path(key)
        found = _checked(path)
        if found is None:
            found = get()
            with suppress(OSError):
                self._put(path, found)
        return found

    @contextmanager
    def place(self, key: str, size: int, get: Callable[[Path], object]) -> Iterator[Path]:
        """A folder with what `get` puts into the empty one it is given; it stays there inside the block.

        size: bytes of what is in it, by which it is known to be whole.

        Raises:
            InputError: where it alone takes more than there may be here.
            OSError: where the disk takes it in spite of that not.
        """
        if size > self.limit:
            raise InputError(f"{size / 1e9:.3g} GB at once, and {self.limit / 1e9:.3g} GB may be kept here: allow more")
        path = self._path(key)
        descriptor = _used(path, size)
        for _ in range(TRIES if descriptor is None else 0):
            self._fetch(path, size, get)
            if (descriptor := _used(path, size)) is not None:
                break
        if descriptor is None:
            raise InputError(
                f"{path}: what was put there is gone again, or is not the {size:,} bytes that it has to be"
            )
        try:
            yield path
        finally:
            os.close(descriptor)

    def size(self) -> int:
        """Bytes that are here now."""
        return sum(size for _, size, _ in self._found())

    def _path(self, key: str) -> Path:
        return self.folder / sha256(key)[:32]

    def _put(self, path: Path, data: bytes) -> None:
        """Write bytes with their sum in front; not flushed, as the sum tells what a power cut left of them."""
        self._make_room(len(data) + SUM)
        aside, calls = self.folder / leftovers.temporary_name(), system.calls()
        try:
            descriptor = calls.open(aside, system.CREATE)
            try:
                left = memoryview(_sum(data) + data)
                while left:
                    left = left[calls.write(descriptor, left, aside) :]
            finally:
                calls.close(descriptor, aside)
            calls.rename(aside, path)
        except BaseException:
            with suppress(OSError):
                remove(aside)
            raise

    def _fetch(self, path: Path, size: int, get: Callable[[Path], object]) -> None:
        """Have a folder's content here; that of another process which was faster is as good."""
        self._make_room(size)
        with files.scratch(self.folder) as room:
            made, calls = room / "made", system.calls()
            calls.mkdir(made)
            get(made)
            files.flush_tree(made)
            try:
                calls.rename(made, path)
            except OSError:
                if not path.is_dir():
                    raise

    def _make_room(self, size: int) -> None:
        """Remove what was used longest ago, where what is here and so many bytes more come near the limit."""
        size = _blocks(size)
        if size <= self._room:
            self._room -= size
            return
        files.make_folder(self.folder)
        leftovers.clean_once(self.folder)
        with held(self.folder / ".lock"):
            found = self._found()
            total, free = sum(each for _, each, _ in found) + size, files.free_space(self.folder)
            if total > FULL * self.limit or free < size + SPARE:
                wanted = min(AFTER * self.limit, total - (size + SPARE - free))
                for _, each, path in sorted(found):
                    if total <= wanted:
                        break
                    total -= each if _removed(path) else 0
        self._room = max(0, int(self.limit - total) // SHARE)

    def _found(self) -> list[tuple[float, int, Path]]:
        """When everything that is here was used last, its bytes on the disk, and where it is."""
        found = []
        with suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if not entry.name.startswith("."):
                        size = _tree(Path(entry.path)) if entry.is_dir() else _blocks(entry.stat().st_size)
                        found.append((entry.stat().st_mtime, size, Path(entry.path)))
        return found


def _sum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(SUM, "little")


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _tree(folder: Path, blocks: bool = True) -> int:
    """Bytes of all files below a folder, on the disk or in them."""
    sizes = (os.stat(os.path.join(at, name)).st_size for at, _, names in os.walk(folder) for name in names)
    return sum(map(_blocks, sizes) if blocks else sizes)


def _checked(path: Path) -> bytes | None:
    """What was kept at a path; None where it is not there, or not what was written."""
    try:
        descriptor = os.open(path, system.EXISTING)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        data = file.read()
    if len(data) < SUM or data[:SUM] != _sum(data[SUM:]):
        return None
    with suppress(OSError):
        os.utime(path)
    return data[SUM:]


def _used(path: Path, size: int) -> int | None:
    """A descriptor that keeps a folder where it is until it is closed; None where none stands there that is whole."""
    import fcntl

    try:
        descriptor = os.open(path, system.EXISTING)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == os.stat(path).st_ino and _tree(path, blocks=False) == size:
            os.utime(path)
            return descriptor
    except OSError:  # it is being removed
        pass
    os.close(descriptor)
    _removed(path)
    return None


def _removed(path: Path) -> bool:
    """Remove what is kept at a path, if nobody uses it; whether it is gone."""
    import fcntl

    try:
        descriptor = os.open(path, system.EXISTING)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        aside = path.parent / leftovers.temporary_name()
        system.calls().rename(path, aside)  # at once, so that no part of a folder stands there
        remove(aside)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
