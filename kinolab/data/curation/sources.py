"""Folders that raw videos are in: of this machine's disk, or of a store, of which the disk holds a part at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from kinolab import video
from kinolab.data.places import DISK_GB, near_place
from kinolab.data.scan import find_clips
from kinolab.errors import InputError
from kinolab.runtime.filesystems import NoObjectError
from kinolab.runtime.near import Near
from kinolab.runtime.paths import visible
from kinolab.runtime.progress import size
from kinolab.runtime.remote import Entry, Mirror, address, is_remote

MANY = 20
"""Objects of a folder that are asked for one by one before all of it is listed."""


@lru_cache(maxsize=64)
def near_of(url: str, limit: int) -> Near:
    """What is near of a store's folder; one for each process, as connections are dear."""
    return Near(Mirror(url), limit)


@dataclass(frozen=True)
class There:
    """Where a video lies in a store: the folder, how many bytes of it may be on this disk, the name in it, and what is
    known of its object, or of those of a folder of images."""

    url: str
    limit: int
    name: str
    entries: tuple[tuple[str, Entry], ...]

    @property
    def single(self) -> bool:
        """Whether it is one object."""
        return len(self.entries) == 1 and self.entries[0][0] == self.name

    @contextmanager
    def using(self) -> Iterator[Path]:
        """It as a path inside the block.

        Raises:
            InputError: where it is gone, larger than what may be here, or the store doesn't answer.
        """
        with near_of(self.url, self.limit).using(self.name, entries=dict(self.entries)) as path:
            yield path

    def stats(self) -> list[tuple[str, int, int]]:
        """Name, bytes and moment of each of its files, as its copies on this disk bear them."""
        entries = self.entries if self.single else [(n, e) for n, e in self.entries if video.is_image(n)]
        return [(PurePosixPath(name).name, entry.bytes, entry.moment) for name, entry in sorted(entries)]


class Where:
    """A folder with names in it.

    root: where it is, or would be, on this machine; url: of one in a store.
    """

    url = ""

    def __init__(self, root: Path, disk_gb: float | None) -> None:
        self.root, self.disk_gb, self._others = root, disk_gb, dict[str, InStore]()

    def path(self, name: str) -> Path:
        """Where a file is, or would be, on this machine; a list may name one of the disk by its whole path."""
        return self.root / name

    def exists(self, name: str) -> bool:
        """Whether there is such a file or folder."""
        return self.path(name).exists()

    def is_folder(self, name: str) -> bool:
        """Whether it is a folder."""
        return self.path(name).is_dir()

    def clips(self) -> list[str]:
        """The videos, folders of images and images in it, by name."""
        return find_clips(self.root)[0]

    def below(self, suffix: str) -> list[str]:
        """The files of an ending, anywhere below it."""
        return [path.relative_to(self.root).as_posix() for path in visible(self.root, f"**/*{suffix}")]

    @contextmanager
    def using(self, name: str) -> Iterator[Path]:
        """A file as a path inside the block."""
        yield self.path(name)

    def there(self, name: str) -> There | None:
        """Where it lies in a store, if it does."""
        return None

    def elsewhere(self, name: str) -> tuple[InStore, str]:
        """The folder that an address is in, and the name in it.

        Raises:
            InputError: where there is no such object, or the store doesn't answer.
        """
        url, _, last = address(name).rpartition("/")
        if url not in self._others:
            self._others[url] = InStore(Mirror(url), self.disk_gb, {})
        other = self._others[url]
        other.look_up(last)
        return other, last

    def notes(self) -> list[str]:
        """What is worth a word about it: how much is read, and how much of it is on this disk at once."""
        found = [place for place in (self, *self._others.values()) if isinstance(place, InStore)]
        return [
            f"{place.url}: {len(place.entries)} files of {size(place.bytes)}, each fetched when it is used, at most "
            f"{size(place.limit)} of them on this disk at once (disk_gb)" for place in found
        ]  # fmt: skip


class InStore(Where):
    """A folder of a store. entries: its objects; of a list's addresses those that were looked up."""

    def __init__(self, mirror: Mirror, disk_gb: float | None, entries: dict[str, Entry]) -> None:
        super().__init__(mirror.path, disk_gb)
        self.mirror, self.url, self.entries = mirror, mirror.url, entries
        self.limit = int((DISK_GB if disk_gb is None else disk_gb) * 1e9)
        self._asked = 0

    @property
    def web(self) -> bool:
        """Whether it is a site, which may list nothing."""
        return self.url.startswith("http")

    @property
    def bytes(self) -> int:
        """Bytes of all that is known of it."""
        return sum(entry.bytes for entry in self.entries.values())

    def look_up(self, name: str) -> None:
        """Ask for an object, or the folder of that name, that is not known yet; of many, for all at once.

        Raises:
            InputError: where there is no such object, or the store doesn't answer.
        """
        if self._asked == MANY and not self.web:
            self.entries |= self.mirror.listed()
        self._asked += 1
        if not self._below(name):
            self.entries |= self.mirror.below(name)

    def exists(self, name: str) -> bool:
        if self.web and not self._below(name):
            with suppress(NoObjectError):
                self.look_up(name)
        return bool(self._below(name))

    def is_folder(self, name: str) -> bool:
        return name not in self.entries

    def clips(self) -> list[str]:
        return near_place(self.mirror, self.limit / 1e9, self.entries).names

    def below(self, suffix: str) -> list[str]:
        return sorted(name for name in self.entries if name.endswith(suffix))

    @contextmanager
    def using(self, name: str) -> Iterator[Path]:
        with self.there(name).using() as path:
            yield path

    def there(self, name: str) -> There:
        return There(self.url, self.limit, name, tuple(sorted(self._below(name).items())))

    def _below(self, name: str) -> dict[str, Entry]:
        if name in self.entries:
            return {name: self.entries[name]}
        if name == ".":  # the folder itself is a clip
            return self.entries
        return {each: entry for each, entry in self.entries.items() if each.startswith(f"{name}/")}


def where_of(source: Path, disk_gb: float | None) -> tuple[Where, str | None]:
    """The folder of a source, and the name of the file in it that the source is; none = the folder itself.

    Raises:
        InputError: where there is no such file or folder, or a store doesn't answer.
    """
    if not is_remote(source):
        if not source.exists():
            raise InputError(f"{source}: no such file or folder; expected a folder, list, .tar or .parquet of videos")
        return (Where(source, disk_gb), None) if source.is_dir() else (Where(source.parent, disk_gb), source.name)
    mirror = Mirror(source)
    listed = mirror.listed()
    if not mirror.is_one(listed):
        return InStore(mirror, disk_gb, listed), None
    above, _, name = mirror.url.rpartition("/")
    folder = Mirror(above)
    found = InStore(folder, disk_gb, {name: listed[mirror.path.name]})
    if PurePosixPath(name).suffix.lower() not in video.VIDEO_SUFFIXES | {".tar"} and not found.web:
        found.entries = folder.listed()  # it may name others beside it
    return found, name
