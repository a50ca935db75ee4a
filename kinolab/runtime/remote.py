"""Folders of an object store (S3, Google's, HTTP, any that fsspec knows) by the paths of files of this machine.

    s3://bucket/clips       as a person writes it; as a `Path` it reads `s3:/bucket/clips`, and is taken for the same

What is read is fetched once, to a mirror of the folder in the user's cache, and again only where the store's object has
another size, time or tag. What is written is written to the mirror by `runtime.files`, whole or not at all, and put
into the store by `Mirror.put`; an object is there whole or not, so a set is committed by putting its manifest last.
Who may write is decided by creating an object that must not exist (`writing`).

Every error of a store is one InputError with the address in it; nobody waits for ever for one that doesn't answer.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

from kinolab.errors import InputError
from kinolab.runtime import files
from kinolab.runtime.filesystems import Entry, NoObjectError, UnansweredError, cache_folder, entry_of, filesystem, told
from kinolab.runtime.leases import LOCK as LOCK
from kinolab.runtime.leases import Lease, Writer, writer_of
from kinolab.runtime.leftovers import remove
from kinolab.runtime.locks import held, is_held
from kinolab.runtime.paths import inside, is_passed_over

ADDRESS = re.compile(r"^(s3a?|gs|gcs|https?|memory|abfss?|az):/+(?=[^/])")
Goes = Callable[[str, Collection[str]], bool]
AT_ONCE = 8
"""Objects that are fetched at once."""
PAUSES = (1.0, 5.0)
"""Seconds before a range that could not be read is asked for again: a training reads for days."""


def is_remote(path: Path | str) -> bool:
    """Whether a path is an address in a store."""
    return ADDRESS.match(str(path)) is not None


def address(path: Path | str) -> str:
    """The address as people write it: `s3:/bucket/x` -> `s3://bucket/x`.

    Raises:
        InputError: for a path of this machine.
    """
    found = ADDRESS.match(str(path))
    if found is None:
        raise InputError(f"{path}: expected the address of a store, such as s3://bucket/folder")
    return f"{found[1]}://{str(path)[found.end() :].rstrip('/')}"


def mirror_of(path: Path) -> Mirror | None:
    """The mirror of an address; None for a path of this machine."""
    return Mirror(path) if is_remote(path) else None


def local(path: Path, progress: Callable[[int, int], object] = lambda done, total: None) -> Path:
    """The mirror of an address, fetched; a path of this machine is itself.

    Raises:
        InputError: as `Mirror.fetch`.
    """
    mirror = mirror_of(path)
    return path if mirror is None else mirror.fetch(progress=progress)


class Mirror:
    """A folder of a store, and its copy on this machine.

    Args:
        path: the address.

    Raises:
        MissingExtraError: where the library of that kind of store is not installed.
    """

    def __init__(self, path: Path | str) -> None:
        self.url = address(path)
        self.kind, _, self.root = self.url.partition("://")
        self._web = self.kind.startswith("http")
        if self._web:  # whose paths are whole addresses
            self.root = self.url
        name = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self.path = cache_folder() / "kinolab" / "objects" / name / (self.root.rpartition("/")[2] or "root")
        self._lock = self.path.parent / ".lock"
        self._writes = False
        self._own: tuple[int, Any] | None = None
        self.lease = Lease(lambda: self.store, self.root, self.url)

    def __getstate__(self) -> str:
        return self.url

    def __setstate__(self, url: str) -> None:
        Mirror.__init__(self, url)

    @property
    def store(self) -> Any:
        """The file system of fsspec; one for each process, as those with threads don't outlive a fork."""
        if self._own is None or self._own[0] != os.getpid():
            self._own = (os.getpid(), filesystem(self.kind))
        return self._own[1]

    def listed(self, *, new: bool = False) -> dict[str, Entry]:
        """Every object below the folder, by its name there; hidden ones are left out.

        new: there may be none yet.

        Raises:
            InputError: where there is no such bucket or folder, or the store doesn't answer.
        """
        with told(self.url):
            found: Mapping[str, Any] = self.store.find(self.root, detail=True)
            if not found and self.store.isfile(self.root):  # some stores list a folder alone
                found = {self.root: self.store.info(self.root)}
            if self._web:
                if not found:  # a search passes over what doesn't answer; this says it
                    self.store.ls(self.root)
                with ThreadPoolExecutor(AT_ONCE) as pool:  # a page names its files and no more
                    found = dict(zip(found, pool.map(self.store.info, found), strict=True))
        prefix = self.store._strip_protocol(self.url).rstrip("/")
        entries = {}
        for full, info in found.items():
            name = full.removeprefix(prefix).lstrip("/") or full.rpartition("/")[2]
            name = unquote(name) if self._web else name
            if info.get("type") == "file" and not any(is_passed_over(part) for part in name.split("/")):
                inside(self.path, name)
                entries[name] = entry_of(info)
        if not entries and not new:
            raise InputError(f"{self.url}: no such bucket or folder, or nothing in it")
        return entries

    def fetch(
        self,
        wanted: Callable[[str], bool] = lambda name: True,
        progress: Callable[[int, int], object] = lambda done, total: None,
        *,
        new: bool = False,
    ) -> Path:
        """Have the copies of objects here, as they are in the store now; those of objects that are gone, go.

        While another process of this machine writes the folder, its copies are what is read: they are ahead of the
        store, and not to be touched.

        wanted: which, by name; of others, copies that are not the store's any more go, for `need` to fetch them anew.
        new: there may be none yet.

        Raises:
            InputError: as `listed`, and for an object that can't be read.
        """
        if not self._writes and self.written_here:
            return self.path
        listed = self.listed(new=new)
        names = [name for name in listed if wanted(name)]
        stale = [name for name in names if not self._is_here(name, listed[name])]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for done, _ in enumerate(
                pool.map(lambda name: self.get(name, listed[name], inside(self.path, name)), stale), 1
            ):
                progress(done, len(stale))
        for name in self.here():
            if wanted(name) if name not in listed else not (wanted(name) or self._is_here(name, listed[name])):
                remove(self.path / name)
        return self.path / self.path.name if self.is_one(listed) else self.path

    def is_one(self, listed: Collection[str]) -> bool:
        """Whether the address is that of one object, by what `listed` gave."""
        return list(listed) == [self.path.name] and bool(self.store.isfile(self.root))

    def need(self, name: str) -> Path:
        """The copy of one object, or of all below a folder of that name, fetched where it is not here.

        Raises:
            InputError: where there is no such object, or the store doesn't answer.
        """
        copy = inside(self.path, name)
        if not copy.exists():
            with told(f"{self.url}/{name}"):
                info = self.store.info(self._place(name))
            if info.get("type") == "directory":
                self.fetch(lambda other: other.startswith(f"{name}/"))
            else:
                self.get(name, entry_of(info), copy)
        return copy

    def entry(self, name: str) -> Entry:
        """What the store says of one object.

        Raises:
            InputError: where there is no such object, or the store doesn't answer.
        """
        with told(f"{self.url}/{name}"):
            return entry_of(self.store.info(self._place(name)))

    def below(self, name: str) -> dict[str, Entry]:
        """The object of a name, or all below a folder of that name, by their names here.

        Raises:
            InputError: as `entry`.
        """
        with told(f"{self.url}/{name}"):
            info = self.store.info(self._place(name))
        if info.get("type") != "directory":
            return {name: entry_of(info)}
        return {f"{name}/{each}": entry for each, entry in Mirror(f"{self.url}/{name}").listed().items()}

    def get(self, name: str, entry: Entry, path: Path) -> None:
        """Fetch an object to a path of this machine, whole or not at all.

        Raises:
            InputError: where there is no such object, the store doesn't answer, or gives more or less than it said.
        """
        with files.handed(path) as aside, told(f"{self.url}/{name}"):
            self.store.get_file(self._place(name), str(aside))
            if (size := aside.stat().st_size) != entry.bytes:
                raise InputError(
                    f"{self.url}/{name}: {size:,} bytes came of {entry.bytes:,}; damaged, or being written"
                )
            os.utime(aside, ns=(entry.moment, entry.moment))

    def read(self, name: str, begin: int, end: int) -> bytes:
        """Some bytes of an object, without the others: a range read. Of a store that fails at once is asked again.

        Raises:
            InputError: where there is no such object, or the store doesn't answer.
        """
        for pause in (*PAUSES, None):
            try:
                with told(f"{self.url}/{name}"):
                    data = bytes(self.store.cat_file(self._place(name), start=begin, end=end))
                break
            except UnansweredError:
                if pause is None:
                    raise
                time.sleep(pause)
        return data if len(data) <= end - begin else data[begin:end]  # of a server that knows no ranges: all of it

    def put(self, name: str, path: Path | None = None) -> int:
        """Put a file of the mirror, or another one in its place, into the store; whole there when this returns. Gives
        the moment that the object bears.

        Raises:
            InputError: where the store refuses it, or doesn't answer.
        """
        copy = inside(self.path, name) if path is None else path
        self._check()
        with told(f"{self.url}/{name}"):
            self.store.put_file(str(copy), f"{self.root}/{name}")
            moment = entry_of(self.store.info(f"{self.root}/{name}")).moment
        os.utime(copy, ns=(moment, moment))
        return moment

    def known(self, name: str) -> Entry | None:
        """What the store says of one object, a hidden one too; None where there is none.

        Raises:
            InputError: where the store doesn't answer.
        """
        with suppress(NoObjectError), told(f"{self.url}/{name}"):
            return entry_of(self.store.info(f"{self.root}/{name}"))
        return None

    def have(self, name: str) -> bool:
        """Have the copy of one object as it is in the store now, a hidden one too; False where there is none.

        Raises:
            InputError: where the store doesn't answer.
        """
        entry = self.known(name)
        if entry is None:
            return False
        if not self._is_here(name, entry):
            self.get(name, entry, inside(self.path, name))
        return True

    def drop(self, names: Collection[str]) -> None:
        """Remove objects; those that are not there are."""
        self._check()
        for name in names:
            with told(f"{self.url}/{name}"), suppress(FileNotFoundError):
                self.store.rm_file(f"{self.root}/{name}")

    def here(self) -> list[str]:
        """The names of all copies, in order; hidden files are left out."""
        found = []
        for at, folders, names in os.walk(self.path):
            folders[:] = sorted(f for f in folders if not is_passed_over(f))
            found += [(Path(at) / n).relative_to(self.path).as_posix() for n in sorted(names) if not is_passed_over(n)]
        return found

    def publish(self, last: Sequence[str], *, drop: Goes = lambda name, listed: True) -> dict[str, int]:
        """Make the store's folder what the mirror is: put what differs, those of `last` in that order behind all
        others, then remove what is not here, what has the name of one of `last` first.

        drop: which of those that are not here, by their name and all that are there.

        Returns:
            The moments of what is there now, by name.

        Raises:
            InputError: as `put`.
        """
        listed, here = self.listed(new=True), self.here()
        other = [name for name in here if name not in listed or not self._is_here(name, listed[name])]
        there = {name: entry.moment for name, entry in listed.items()}
        first = [name for name in other if name not in last]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            there |= dict(zip(first, pool.map(self.put, first), strict=True))
        for name in [name for name in last if name in other]:
            there[name] = self.put(name)
        ends = {PurePosixPath(name).name for name in last}
        known = set(here)
        gone = [name for name in listed if name not in known and drop(name, listed)]
        self.drop(sorted(gone, key=lambda name: (PurePosixPath(name).name not in ends, name)))
        return {name: moment for name, moment in there.items() if name not in gone}

    def untouched(self, known: Mapping[str, int]) -> bool:
        """Whether all that is in the store is as this machine has known it: by its moment, or by the copy.

        Raises:
            InputError: as `listed`.
        """
        listed = self.listed(new=True)
        return all(entry.moment == known.get(name) or self._is_here(name, entry) for name, entry in listed.items())

    def _check(self) -> None:
        """Refuse to write what another has taken since; workers of who writes have no lease of their own."""
        if self._writes:
            self.lease.check()

    def _is_here(self, name: str, entry: Entry) -> bool:
        try:
            found = (self.path / name).stat()
        except OSError:
            return False
        return found.st_size == entry.bytes and found.st_mtime_ns == entry.moment

    def _place(self, name: str) -> str:
        """Where an object lies in the store; the address may be that of the one object itself."""
        place = f"{self.root}/{quote(name) if self._web else name}"
        return self.root if name == self.path.name and not self.store.exists(place) else place

    @contextmanager
    def using(self, name: str, content: str | None = None) -> Iterator[Path]:
        """One object, or all below a folder of that name, as a path inside the block (`runtime.near` bounds them)."""
        yield self.need(name)

    @contextmanager
    def writing(self, patient: Callable[[str], object] | None = None) -> Iterator[None]:
        """Keep others from writing the folder: the object that says so is created, which one of them alone can.

        What a process of this machine left there that is surely gone is taken over; patient: as of `Lease.held`.

        Raises:
            InputError: where another has it; says who, and what to do where that one is gone.
        """
        # Of this machine's processes one at a time looks who is gone, and all leave the copies alone (`fetch`).
        with held(self._lock, f"{self.url}: another kinolab is writing there"), self.lease.held(patient):
            self._writes = True
            try:
                yield
            finally:
                self._writes = False

    @property
    def written_here(self) -> bool:
        """Whether a process of this machine writes the folder, so that the copies are ahead of the store."""
        return is_held(self._lock)

    def writer(self) -> Writer | None:
        """Who writes the folder; None where nobody does.

        Raises:
            InputError: where the store doesn't answer.
        """
        return writer_of(self.store, self.root, self.url)
