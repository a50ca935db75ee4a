"""Where the clips of a folder lie: on a disk, mirrored whole from a store, or fetched one by one of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kinolab import video
from kinolab.contracts.events import Listener, events_of
from kinolab.data.scan import STILL_SUFFIXES, find_clips, find_listed
from kinolab.errors import InputError
from kinolab.runtime.files import make_folder
from kinolab.runtime.near import Near
from kinolab.runtime.remote import Entry, Mirror, mirror_of

DISK_GB = 20.0
"""Of this machine's disk, what clips of a store take that are used once or twice, where nothing says otherwise."""
LARGE = video.VIDEO_SUFFIXES | STILL_SUFFIXES | {".tar", ".parquet"}
"""Endings of what is fetched when it is used, and not with what is said of it."""


@dataclass(frozen=True)
class ClipPlace:
    """The clips of a folder, or of a path to a single one.

    base: the folder that names are below; root: the folder or the file; others: files that are none, by ending.
    """

    base: Path
    root: Path
    whole: bool
    """Whether it is a folder, and not one file alone."""
    names: list[str]
    others: Mapping[str, int]
    store: Mirror | Near | None = None

    @contextmanager
    def using(self, name: str, content: str | None = None) -> Iterator[Path]:
        """A clip as a path inside the block.

        content: the SHA-256 that it had when it was looked at.

        Raises:
            InputError: where a store doesn't have it any more, has another, or doesn't answer.
        """
        if self.store is None:
            yield self.base / name
            return
        with self.store.using(name, content) as path:
            yield path


def place_of(path: Path, disk_gb: float | None, events: Listener) -> ClipPlace:
    """The clips of a folder or file of this machine, or of a store.

    disk_gb: of a store, how much of it this machine's disk may hold; None = all of it.

    Raises:
        InputError: where there is no such folder, or a store doesn't answer.
    """
    mirror = mirror_of(path)
    if mirror is not None and disk_gb is not None:
        return near_place(mirror, disk_gb)
    root = path if mirror is None else mirror.fetch(progress=events_of(events).progress)
    if not root.exists():
        raise InputError(f"{path}: no such folder of clips")
    names, others = find_clips(root)
    return ClipPlace(root if root.is_dir() else root.parent, root, root.is_dir(), names, others, mirror)


def near_place(mirror: Mirror, disk_gb: float, listed: Mapping[str, Entry] | None = None) -> ClipPlace:
    """The clips of a store's folder, listed: what is said of them is fetched, each of them when it is used.

    listed: the folder's objects, where they are known.

    Raises:
        InputError: where there is no such folder, or the store doesn't answer.
    """
    listed = mirror.listed() if listed is None else listed
    near, root = Near(mirror, int(disk_gb * 1e9), listed), mirror.path
    mirror.fetch(lambda name: Path(name).suffix.lower() not in LARGE)  # captions, labels and tables
    make_folder(root)

    def animated(name: str) -> bool:
        with near.using(name) as copy:
            return video.is_animated(copy)

    names, others = find_listed(listed, animated)
    return ClipPlace(root, root, not mirror.is_one(listed), names, others, near)
