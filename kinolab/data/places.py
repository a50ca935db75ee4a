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
from kinolab.runtime.remote import Mirror, mirror_of


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
        listed = mirror.listed()
        near, root = Near(mirror, int(disk_gb * 1e9), listed), mirror.path
        mirror.fetch(lambda name: not _is_clip(name))  # captions, labels and tables
        make_folder(root)

        def animated(name: str) -> bool:
            with near.using(name) as copy:
                return video.is_animated(copy)

        names, others = find_listed(listed, animated)
        return ClipPlace(root, root, not mirror.is_one(listed), names, others, near)
    root = path if mirror is None else mirror.fetch(progress=events_of(events).progress)
    if not root.exists():
        raise InputError(f"{path}: no such folder of clips")
    names, others = find_clips(root)
    return ClipPlace(root if root.is_dir() else root.parent, root, root.is_dir(), names, others, mirror)


def _is_clip(name: str) -> bool:
    return Path(name).suffix.lower() in video.VIDEO_SUFFIXES | STILL_SUFFIXES
