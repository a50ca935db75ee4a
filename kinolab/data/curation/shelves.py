"""Where the clips of a curation lie: in a folder of a disk, or in a store, where none stays on this disk once put."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from kinolab.data.places import LARGE
from kinolab.runtime.files import remove
from kinolab.runtime.paths import visible
from kinolab.runtime.remote import Entry, Mirror


class Shelf:
    """The folder of a curation."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return (self.out / name).is_file()

    def names(self, begin: str) -> list[str]:
        """The files right in the folder whose names begin so."""
        return [path.name for path in visible(self.out, f"{begin}*")]

    def put(self, name: str) -> None:
        """A file is whole, and may be put where it is to stay."""

    def remove(self, name: str) -> bool:
        """Remove a file; whether there was one."""
        there = (self.out / name).exists()
        remove(self.out / name)
        return there


class InStore(Shelf):
    """The same in a store, by its mirror; listed: what is there. What is removed goes from there at the end."""

    def __init__(self, mirror: Mirror, listed: Mapping[str, Entry]) -> None:
        super().__init__(mirror.path)
        self.mirror, self.there, self.gone = mirror, set(listed), set[str]()

    def has(self, name: str) -> bool:
        return name in self.there

    def names(self, begin: str) -> list[str]:
        return sorted(name for name in self.there if "/" not in name and name.startswith(begin))

    def put(self, name: str) -> None:
        """Put it, and make room on this disk.

        Raises:
            InputError: where the store doesn't take it.
        """
        self.mirror.put(name)
        self.there.add(name)
        self.gone.discard(name)
        if PurePosixPath(name).suffix.lower() in LARGE:
            remove(self.out / name)

    def remove(self, name: str) -> bool:
        there = name in self.there
        self.there.discard(name)
        self.gone |= {name} if there else set()
        remove(self.out / name)
        return there

    def finish(self, last: tuple[str, ...]) -> None:
        """Put what differs, those of `last` behind all others, then remove what is no longer wanted.

        Raises:
            InputError: where the store doesn't take it.
        """
        self.mirror.publish(last, drop=lambda name, listed: False)
        self.mirror.drop(sorted(self.gone, key=lambda name: (name not in last, name)))
