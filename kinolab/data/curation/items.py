"""Where raw videos come from: a folder, a file, a list of paths, a table, WebDataset archives or Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from kinolab import video
from kinolab.data.annotations import annotate
from kinolab.data.curation import parquet
from kinolab.data.scan import STILL_SUFFIXES, find_clips
from kinolab.data.tables import TABLE_SUFFIXES, read_table
from kinolab.errors import InputError
from kinolab.runtime import tars
from kinolab.runtime.files import scratch, write_bytes
from kinolab.runtime.hashes import json_sha256
from kinolab.runtime.paths import visible
from kinolab.runtime.reading import decode, parse_json
from kinolab.runtime.text import read_text, split_lines


@dataclass(frozen=True)
class Item:
    """One raw video: what it is called, the file that holds it, and where in it, for one inside an archive."""

    name: str
    path: Path
    member: tars.Member | None = None
    row: parquet.Place | None = None
    caption: str | None = None
    suffix: str = ".mp4"

    @property
    def packed(self) -> bool:
        """Whether it lies inside another file."""
        return self.member is not None or self.row is not None

    @contextmanager
    def local(self, room: Path) -> Iterator[Path]:
        """It as a path inside the block; of a packed one a copy in the folder `room`, which is gone after it."""
        if not self.packed:
            yield self.path
            return
        with scratch(room) as place:
            target = place / f"clip{self.suffix}"
            write_bytes(target, self._data())
            yield target

    def _data(self) -> bytes:
        if self.member is not None:
            return tars.read_member(self.path, self.member)
        assert self.row is not None
        return parquet.read_bytes(self.path, self.row)

    def signature(self) -> str:
        """Tells whether it is what it was without reading it: by size and time of the file that holds it."""
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


def find_items(source: Path) -> Found:
    """The raw videos of a source.

    Raises:
        InputError: where it is not there, holds no video, or is a list of what is not there.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder; expected a folder, list, .tar or .parquet of videos")
    if source.is_dir():
        found = _folder(source)
    elif source.suffix.lower() == ".tar":
        found = _archives([source])
    elif source.suffix.lower() == ".parquet":
        found = Found(tuple(_parquet([source])))
    elif source.suffix.lower() in (".txt", *TABLE_SUFFIXES):
        found = _list(source)
    else:
        found = Found((Item(source.name, source, suffix=source.suffix.lower()),))
    if not found.items:
        raise InputError(f"{source}: no videos in it")
    return found


def _folder(root: Path) -> Found:
    names, _ = find_clips(root)
    clips = [n for n in names if Path(n).suffix.lower() not in STILL_SUFFIXES or (root / n).is_dir()]
    stills = len(names) - len(clips)
    if not clips:
        archives, tables = visible(root, "**/*.tar"), visible(root, "**/*.parquet")
        if archives:
            return _archives(archives)
        return Found(tuple(_parquet(tables)))
    told = annotate(root, clips, "auto", "none", "drop", whole=True)
    items = [Item(n, root / n, caption=told.captions.get(n), suffix=Path(n).suffix.lower()) for n in clips]
    notes = [*told.notes, *([f"{stills} still images are passed over"] if stills else [])]
    return Found(tuple(items), tuple(notes))


def _list(path: Path) -> Found:
    """Paths in a text, one a line, or in a table with captions; relative ones are below the list's own folder."""
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
    for where, name, caption in rows:
        file = path.parent / name
        if not file.exists():
            raise InputError(f"{path}: {where}: {name}: no such file; paths are below {path.parent}, or absolute")
        items.append(Item(name, file, caption=caption, suffix=file.suffix.lower()))
    return Found(tuple(items))


def _archives(paths: Sequence[Path]) -> Found:
    """WebDataset: members of one name up to the first dot are one sample; a .txt or .json in it has its caption."""
    items, without = [], 0
    for path in paths:
        for key, parts in tars.grouped(tars.members(path)):
            ending = next((e for e in parts if f".{e}" in video.VIDEO_SUFFIXES), None)
            if ending is None:
                without += 1
                continue
            item = Item(f"{path.stem}/{key}", path, parts[ending], suffix=f".{ending}")
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


def _parquet(paths: Sequence[Path]) -> Iterator[Item]:
    for path in paths:
        for row in parquet.rows(path):
            if row.place is None:
                file = path.parent / row.name
                if not file.exists():
                    raise InputError(f"{path}: row {row.number}: {row.name}: no such file below {path.parent}")
                yield Item(row.name, file, caption=row.caption, suffix=file.suffix.lower())
            else:
                suffix = Path(row.name).suffix.lower() or ".mp4"
                yield Item(f"{path.stem}/{row.name}", path, row=row.place, caption=row.caption, suffix=suffix)
