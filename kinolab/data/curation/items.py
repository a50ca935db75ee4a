"""Where raw videos come from: a folder, a file, a list of paths, a table, WebDataset archives or Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from kinolab import video
from kinolab.data.annotations import annotate
from kinolab.data.curation import parquet
from kinolab.data.curation.sources import There, Where, where_of
from kinolab.data.scan import STILL_SUFFIXES
from kinolab.data.tables import TABLE_SUFFIXES, read_table
from kinolab.errors import InputError
from kinolab.runtime import tars
from kinolab.runtime.files import scratch, write_bytes
from kinolab.runtime.hashes import json_sha256
from kinolab.runtime.paths import visible
from kinolab.runtime.reading import decode, parse_json
from kinolab.runtime.remote import is_remote
from kinolab.runtime.text import read_text, split_lines


@dataclass(frozen=True)
class Item:
    """One raw video: what it is called, the file that holds it, and where in it, for one inside an archive.

    there: of one in a store, where its file lies; `path` is then where it would lie on this machine.
    """

    name: str
    path: Path
    member: tars.Member | None = None
    row: parquet.Place | None = None
    caption: str | None = None
    suffix: str = ".mp4"
    there: There | None = None

    @property
    def single(self) -> bool:
        """Whether it lies in one file, and is no folder of images."""
        return self.path.is_file() if self.there is None else self.there.single

    @property
    def packed(self) -> bool:
        """Whether it lies inside another file."""
        return self.member is not None or self.row is not None

    @contextmanager
    def local(self, room: Path) -> Iterator[Path]:
        """It as a path inside the block; of a packed one a copy in the folder `room`, which is gone after it."""
        with nullcontext(self.path) if self.there is None else self.there.using() as path:
            if not self.packed:
                yield path
                return
            with scratch(room) as place:
                target = place / f"clip{self.suffix}"
                write_bytes(target, self._data(path))
                yield target

    def _data(self, path: Path) -> bytes:
        if self.member is not None:
            return tars.read_member(path, self.member)
        assert self.row is not None
        return parquet.read_bytes(path, self.row)

    def signature(self) -> str:
        """Tells whether it is what it was without reading it: by size and time of the file that holds it."""
        if self.there is not None:
            stats = self.there.stats()
        else:
            files = [self.path]
            if self.path.is_dir():
                files = [f for f in visible(self.path) if video.is_image(f.name)]
            stats = [(f.name, (s := f.stat()).st_size, s.st_mtime_ns) for f in files]
        place = (self.member and self.member.offset, self.row and (self.row.group, self.row.row))
        return json_sha256([self.name, str(self.path), stats, place])[:32]


@dataclass(frozen=True)
class Found:
    """The raw videos of a source, in its order, and what there is to know about it."""

    items: tuple[Item, ...]
    notes: tuple[str, ...] = field(default=())


def find_items(source: Path, disk_gb: float | None = None) -> Found:
    """The raw videos of a source, which may lie in a store; then they are listed, and fetched when they are used.

    disk_gb: of a store, how much of it this machine's disk may hold at once; none = 20.

    Raises:
        InputError: where it is not there, holds no video, or is a list of what is not there.
    """
    where, name = where_of(source, disk_gb)
    suffix = source.suffix.lower()
    if name is None:
        found = _folder(where)
    elif suffix == ".tar":
        found = _archives(where, [name])
    elif suffix == ".parquet":
        found = Found(tuple(_parquet(where, [name])))
    elif suffix in (".txt", *TABLE_SUFFIXES):
        found = _list(where, name)
    else:
        found = Found((_item(where, name),))
    if not found.items:
        raise InputError(f"{source}: no videos in it")
    return replace(found, notes=(*found.notes, *where.notes()))


def _item(where: Where, name: str, caption: str | None = None) -> Item:
    """A video that is a file, or a folder of images, by its name in a folder; a list may name it by an address."""
    shown = name
    if is_remote(name):
        where, name = where.elsewhere(name)
    path = where.path(name)
    return Item(shown, path, caption=caption, suffix=path.suffix.lower(), there=where.there(name))


def _folder(where: Where) -> Found:
    names = where.clips()
    clips = [n for n in names if Path(n).suffix.lower() not in STILL_SUFFIXES or where.is_folder(n)]
    stills = len(names) - len(clips)
    if not clips:
        archives = where.below(".tar")
        return _archives(where, archives) if archives else Found(tuple(_parquet(where, where.below(".parquet"))))
    told = annotate(where.root, clips, "auto", "none", "drop", whole=True)
    items = [_item(where, name, told.captions.get(name)) for name in clips]
    notes = [*told.notes, *([f"{stills} still images are passed over"] if stills else [])]
    return Found(tuple(items), tuple(notes))


def _list(where: Where, name: str) -> Found:
    """Paths in a text, one a line, or in a table with captions; relative ones are below the list's own folder."""
    told = f"{where.url}/{name}" if where.url else str(where.path(name))
    with where.using(name) as path:
        if path.suffix.lower() == ".txt":
            rows: list[tuple[str, str, str | None]] = [
                (f"line {k + 1}", line.strip(), None)
                for k, line in enumerate(split_lines(read_text(path)))
                if line.strip() and not line.lstrip().startswith("#")
            ]
        else:
            table = read_table(path, "error")
            rows = [(row.where, row.file, row.captions[0] if row.captions else None) for row in table.rows]
    items = []
    for row, named, caption in rows:
        file = PurePosixPath(named).as_posix() if where.url and not is_remote(named) else named
        if not is_remote(file) and not where.exists(file):
            place = where.url or where.root
            raise InputError(f"{told}: {row}: {file}: no such file; paths are below {place}, or absolute")
        items.append(_item(where, file, caption))
    return Found(tuple(items))


def _archives(where: Where, names: Sequence[str]) -> Found:
    """WebDataset: members of one name up to the first dot are one sample; a .txt or .json in it has its caption."""
    items, without = [], 0
    for name in names:
        shown, there = where.path(name), where.there(name)
        with where.using(name) as path:
            for key, parts in tars.grouped(tars.members(path)):
                ending = next((e for e in parts if f".{e}" in video.VIDEO_SUFFIXES), None)
                if ending is None:
                    without += 1
                    continue
                item = Item(f"{path.stem}/{key}", shown, parts[ending], suffix=f".{ending}", there=there)
                items.append(replace(item, caption=_told(path, parts)))
    return Found(tuple(items), (f"{without} samples without a video are passed over",) if without else ())


def _told(path: Path, parts: dict[str, tars.Member]) -> str | None:
    """The caption of a sample."""
    if "txt" in parts:
        return decode(tars.read_member(path, parts["txt"]), f"{path}: {parts['txt'].name}").strip() or None
    if "json" in parts:
        name = f"{path}: {parts['json'].name}"
        values = parse_json(tars.read_member(path, parts["json"]), name)
        found = [values.get(k) for k in ("caption", "text", "prompt")] if isinstance(values, dict) else []
        return next((t for t in found if isinstance(t, str) and t.strip()), None)
    return None


def _parquet(where: Where, names: Sequence[str]) -> Iterator[Item]:
    for name in names:
        beside, there = PurePosixPath(name).parent, where.there(name)
        with where.using(name) as path:
            rows = list(parquet.rows(path))
        for row in rows:
            if row.place is None:
                file = row.name if is_remote(row.name) else (beside / row.name).as_posix()
                if not is_remote(file) and not where.exists(file):
                    shown = where.path(name)
                    raise InputError(f"{shown}: row {row.number}: {row.name}: no such file below {shown.parent}")
                yield replace(_item(where, file, row.caption), name=row.name)
            else:
                suffix, shown = Path(row.name).suffix.lower() or ".mp4", where.path(name)
                yield Item(f"{shown.stem}/{row.name}", shown, row=row.place, caption=row.caption, suffix=suffix,
                           there=there)  # fmt: skip
