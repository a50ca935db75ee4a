"""Archives of files (.tar), as WebDataset keeps its samples: where each member lies, and writing them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kinolab.errors import InputError
from kinolab.runtime.files import opened
from kinolab.runtime.lines import one_line
from kinolab.runtime.reading import open_plain


@dataclass(frozen=True)
class Member:
    """A plain file in an archive: its name, and where its bytes lie in the archive."""

    name: str
    offset: int
    size: int


def members(path: Path) -> list[Member]:
    """The plain files of an archive, in its order; links, devices and folders are left out. Nothing is unpacked.

    Raises:
        InputError: for what is no tar file, is packed (.tar.gz), or ends in the middle.
        OSError: where it can't be read.
    """
    try:
        with open_plain(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            found = [Member(m.name, m.offset_data, m.size) for m in archive if m.isreg() and not m.issparse()]
            size = file.seek(0, 2)
        if any(min(member.offset, member.size) < 0 for member in found):
            raise tarfile.ReadError("a negative size")
    except (tarfile.TarError, ValueError, OverflowError, MemoryError) as error:  # of sizes that no file has
        raise InputError(f"{path}: no whole .tar archive ({one_line(error, 80)}); packed ones are not read") from None
    for member in found:
        if member.offset + member.size > size:
            raise InputError(f"{path}: ends in the middle of {member.name}; get it again")
    return found


def read_member(path: Path, member: Member) -> bytes:
    """The bytes of a member.

    Raises:
        InputError: where the archive is shorter than it was.
        OSError: where it can't be read.
    """
    with open_plain(path) as file:
        file.seek(member.offset)
        data = file.read(member.size)
    if len(data) < member.size:
        raise InputError(f"{path}: ends in the middle of {member.name}; get it again")
    return data


class Archive:
    """An archive that is written; made by `new_archive`."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive

    def add(self, name: str, data: bytes) -> None:
        """Add a file; owner, time and permissions are always the same, so that the same files give the same bytes."""
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(data), 0o644
        self._archive.addfile(entry, io.BytesIO(data))


@contextmanager
def new_archive(path: Path) -> Iterator[Archive]:
    """An archive that takes the place of `path` when the block ends.

    Raises:
        OSError: where it can't be written.
    """
    with opened(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        yield Archive(archive)


def grouped(found: list[Member]) -> Iterator[tuple[str, dict[str, Member]]]:
    """Members of a WebDataset archive by sample: the name up to the first dot of its last part, and what follows it."""
    samples: dict[str, dict[str, Member]] = {}
    for member in found:
        folder, slash, base = member.name.rpartition("/")
        stem, _, ending = base.partition(".")
        if stem and ending:
            samples.setdefault(f"{folder}{slash}{stem}", {})[ending.lower()] = member
    yield from samples.items()
