"""Where captions are written, beside clips of a disk or of a store, and what was said of each content until now.

Of a folder in a store the texts are put when they are written, and what was said with them, at most once a minute; the
metadata that names clips and texts last. Clips are fetched one by one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kinolab.data.places import DISK_GB, ClipPlace, near_place
from kinolab.data.scan import find_clips, hash_source
from kinolab.errors import InputError
from kinolab.runtime import reading
from kinolab.runtime.files import write_text
from kinolab.runtime.hashes import json_sha256
from kinolab.runtime.locks import held
from kinolab.runtime.near import Near
from kinolab.runtime.reading import json_lines
from kinolab.runtime.remote import Mirror, is_remote
from kinolab.runtime.summed import summed

KEPT = ".captions.jsonl"
"""In the folder: what was said of each content, one line each."""
SEEN = ".captions.files.jsonl"
"""In a store's folder: the content of each clip by name, size and moment: it need not be fetched to be known."""
LOCK = ".captions.lock"
MOST = 2**31
"""Bytes of what was said."""
OFTEN = 60.0
"""Seconds after which what was said is put into a store."""


@dataclass
class Texts:
    """The texts of a folder of clips. mirror: of one in a store."""

    place: ClipPlace
    mirror: Mirror | None = None
    _seen: dict[str, str] = field(default_factory=dict)
    _put: float = 0.0

    @property
    def folder(self) -> Path:
        """Where the texts lie on this machine."""
        return self.place.base

    def beside(self, name: str) -> Path:
        """The text of a clip."""
        return (self.folder / name).with_suffix(".txt")

    def content(self, name: str) -> str:
        """What a clip is: its bytes' hash.

        Raises:
            InputError: where it can't be read.
        """
        near = self.place.store
        signature = None
        if isinstance(near, Near):
            signature = json_sha256([name, *near.signature(name)])[:32]
            if signature in self._seen:
                return self._seen[signature]
        with self.place.using(name) as path:
            found = hash_source(path)
        if signature is not None:
            self._seen[signature] = found
        return found

    def write(self, name: str, text: str) -> Path:
        """Write the text of a clip; whole on the disk, and in the store, when this returns.

        Raises:
            InputError: where the store doesn't take it.
            OSError: where the disk doesn't.
        """
        path = self.beside(name)
        write_text(path, text + "\n")
        if self.mirror is not None:
            self.mirror.put(path.relative_to(self.folder).as_posix())
        return path

    def keep(self, now: bool = False) -> None:
        """Put what was said into the store, where it is due, or `now`."""
        if self.mirror is None or not (now or time.monotonic() - self._put >= OFTEN):
            return
        rows = [summed({"signature": key, "content": content}) + "\n" for key, content in sorted(self._seen.items())]
        write_text(self.folder / SEEN, "".join(rows))
        for name in (KEPT, SEEN):
            if (self.folder / name).is_file():
                self.mirror.put(name)
        self._put = time.monotonic()

    def put(self, path: Path) -> None:
        """Put a file of the folder into the store."""
        if self.mirror is not None:
            self.mirror.put(path.relative_to(self.folder).as_posix())


@contextmanager
def texts_of(folder: Path, disk_gb: float | None) -> Iterator[Texts]:
    """The texts of a folder, which nobody else writes inside the block.

    disk_gb: of a store's folder, how much of its clips this machine's disk may hold.

    Raises:
        InputError: where there is no such folder, another is at work there, or a store doesn't answer.
    """
    with ExitStack() as stack:
        if is_remote(folder):
            mirror = Mirror(folder)
            if mirror.is_one(mirror.listed()):
                raise InputError(f"{mirror.url}: one clip; expected the folder that holds it")
            stack.enter_context(mirror.writing())
            made = Texts(near_place(mirror, DISK_GB if disk_gb is None else disk_gb), mirror)
            _bring(mirror)
            rows = json_lines(made.folder / SEEN, damaged="skip") if (made.folder / SEEN).is_file() else ()
            made._seen = {str(r.get("signature")): str(r.get("content")) for _, r in rows if isinstance(r, dict)}
        else:
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder of clips")
            if disk_gb is not None:
                raise InputError(f"--disk-gb {disk_gb:g}: is for clips in a store (s3://...), and {folder} is none")
            stack.enter_context(held(folder / LOCK, f"{folder}: another kinolab data caption is at work there"))
            names, others = find_clips(folder)
            made = Texts(ClipPlace(folder, folder, True, names, others))
        yield made


def _bring(mirror: Mirror) -> None:
    """What was said until now: as it is in the store, and behind it what this machine had not put when it was cut off,
    which somebody may have been paid for."""
    path = mirror.path / KEPT
    before = _lines(path)
    mirror.have(SEEN)
    if not mirror.have(KEPT):
        return
    there = _lines(path)
    known = set(there)
    more = [line for line in before if line not in known]
    if more:
        write_text(path, "".join(f"{line}\n" for line in [*there, *more]))


def _lines(path: Path) -> list[str]:
    return [line for line in reading.read_text(path, MOST).split("\n") if line] if path.is_file() else []


def said(path: Path, protocol: str | None) -> dict[str, str]:
    """What was said of each content, by this captioner alone where one is named."""
    if not path.is_file():
        return {}
    rows = (row for _, row in json_lines(path, damaged="skip") if isinstance(row, dict))
    return {
        str(row.get("content")) if protocol else f"{row.get('content')}-{row.get('protocol')}": str(row.get("caption"))
        for row in rows
        if protocol in (None, row.get("protocol"))
    }


def line_of(content: str, protocol: str, caption: str) -> str:
    """What is kept of one answer."""
    return summed({"content": content, "protocol": protocol, "caption": caption})


def put_in_order(path: Path, protocol: str, order: Sequence[str]) -> None:
    """Give what this captioner said the order of the clips, whoever asked about which when; behind what others said."""
    rows = [row for _, row in json_lines(path, damaged="skip") if isinstance(row, dict)]
    place = {content: number for number, content in enumerate(order)}
    rows.sort(key=lambda row: place.get(str(row.get("content")), -1) if row.get("protocol") == protocol else -1)
    text = "".join(summed(_plain(row)) + "\n" for row in rows)
    if text != reading.read_text(path, MOST):
        write_text(path, text)


def _plain(row: Mapping[str, object]) -> dict[str, object]:
    return {name: row.get(name) for name in ("content", "protocol", "caption")}
