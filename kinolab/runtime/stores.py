"""Where sets of files are kept: a folder on a disk today, objects in a bucket later, behind one interface.

A store knows sets by key (`world`, `runs/a/step-00000100`). A set is written once as a whole and replaced as a whole;
what commits it is its manifest, written last. Nothing asks a store to rename, append or change a part of a file, so a
store of objects can keep the interface by putting each file under a name of its own and the manifest under the key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kinolab.runtime import leftovers, sets, system
from kinolab.runtime.files import flush, make_folder, opened, remove
from kinolab.runtime.paths import inside
from kinolab.runtime.reading import Limits, read_bytes

KEY = "set"
"""What tells the set from other files in its folder."""


class StoredSet(Protocol):
    """A set as it was when it was asked for."""

    @property
    def manifest(self) -> sets.Manifest:
        """Its files' names, sizes and hashes."""
        ...

    def read(self, name: str, limit: int = Limits.bytes) -> bytes:
        """The content of a small file; raises InputError for one that is larger than `limit`, KeyError for no such."""
        ...

    def local(self, name: str) -> AbstractContextManager[Path]:
        """A file as a path inside the block, for libraries that map files; raises KeyError for no such."""
        ...


class Store(Protocol):
    """Sets of files by key."""

    def commit(self, key: str, write: Callable[[Path], object]) -> sets.Manifest:
        """Keep the files that `write` puts into the empty folder it is given, in the place of the set `key`.

        Whenever this is cut off, the old or the new set is found, whole.

        Raises:
            OSError: where it can't be kept; the old set then stands.
            InputError: for a key or name that can't be one, and for no files.
        """
        ...

    def find(self, key: str) -> StoredSet | None:
        """The set of this key; None where there is none."""
        ...

    def keys(self, prefix: str = "") -> Iterator[str]:
        """The keys of all sets that begin with `prefix`, in order."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Keep a single file under a name that is free; False, and nothing is changed, where it is not."""
        ...

    def delete(self, key: str) -> None:
        """Remove a set; nothing where there is none."""
        ...


@dataclass(frozen=True)
class LocalSet:
    """A set in a folder."""

    folder: Path
    manifest: sets.Manifest

    def read(self, name: str, limit: int = Limits.bytes) -> bytes:
        return read_bytes(self._path(name), limit)

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        yield self._path(name)

    def _path(self, name: str) -> Path:
        if name not in self.manifest.files:
            raise KeyError(name)
        return sets.located(self.folder, KEY, name)


@dataclass(frozen=True)
class LocalStore:
    """Sets as folders below a root, each file under its own name beside `manifest.json`."""

    root: Path

    def commit(self, key: str, write: Callable[[Path], object]) -> sets.Manifest:
        folder = inside(self.root, key, new=True)
        with sets.new_set(folder, KEY, manifest=sets.MANIFEST) as room:
            write(room)
        found = sets.read_manifest(folder)
        assert found is not None
        return found

    def find(self, key: str) -> LocalSet | None:
        folder = inside(self.root, key)
        manifest = sets.read_manifest(folder, KEY)
        return None if manifest is None else LocalSet(folder, manifest)

    def keys(self, prefix: str = "") -> Iterator[str]:
        for path in sorted(self.root.rglob("*")):
            if path.is_dir() and not any(part.startswith(".") for part in path.relative_to(self.root).parts):
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix) and self.find(key) is not None:
                    yield key

    def create(self, name: str, data: bytes) -> bool:
        path = inside(self.root, name, new=True)
        make_folder(path.parent)
        aside = path.parent / leftovers.temporary_name()
        with opened(aside) as file:
            file.write(data)
        try:
            system.calls().link(aside, path)
        except FileExistsError:
            return False
        finally:
            remove(aside)
        flush(path.parent)
        return True

    def delete(self, key: str) -> None:
        folder = inside(self.root, key)
        found = self.find(key)
        if found is None:
            return
        sets.finish_set(folder, KEY)
        remove(folder / sets.MANIFEST)  # first: without it there is no set
        flush(folder)
        for name in found.manifest.files:
            remove(folder / name)
        if not any(folder.iterdir()):
            remove(folder)
