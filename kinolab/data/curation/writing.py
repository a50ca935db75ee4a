"""What is kept, as files: a folder of clips with metadata.jsonl, Parquet, or WebDataset archives.

A clip's name says its content, its part and how it was encoded, so one that is there is the one that is wanted:
deciding anew writes what is new and removes what is no longer wanted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from kinolab import video
from kinolab.contracts.events import Events, advance
from kinolab.data.curation import parquet
from kinolab.data.curation.scoring import ROOM
from kinolab.data.curation.settings import OutputConfig
from kinolab.data.curation.shelves import Shelf
from kinolab.data.curation.table import Row, rounded
from kinolab.data.cutting import cropped
from kinolab.errors import InputError
from kinolab.runtime import reading
from kinolab.runtime.files import copy, make_folder, scratch, write_text
from kinolab.runtime.filesystems import UnansweredError
from kinolab.runtime.hashes import json_sha256
from kinolab.runtime.reading import json_lines, read_bytes, read_json
from kinolab.runtime.records import write_record
from kinolab.runtime.tars import new_archive
from kinolab.runtime.text import read_text, split_lines

CLIPS, METADATA, PLAN = "clips", "metadata.jsonl", ".scores/clips.txt"
SHARDS = {"parquet": ".parquet", "webdataset": ".tar"}
CLIP = re.compile(CLIPS + r"/[A-Za-z0-9_-]+-[0-9a-f]{12}\.\w+")
"""A clip as `file_name` calls it; nothing else below `clips/` is touched."""
SHARD = re.compile(r"clips-\d{5,}(\.parquet|\.tar)(\.json)?")
LONGEST = 2**31
"""Bytes of a clip that goes into an archive."""


@dataclass(frozen=True)
class Written:
    """Clips (or files of several) written now, those there already, those removed, and clips that could not be made."""

    written: int = 0
    present: int = 0
    removed: int = 0
    failed: tuple[str, ...] = ()


def file_name(row: Row, quality: int) -> str:
    """What a clip's file is called: its video's name, and a hash of all that decides its content."""
    made: dict[str, Any] = {"content": row.content, "crop": row.crop, "whole": row.whole}
    if not copied(row):
        made |= {"start": row.part.start, "end": row.part.end, "quality": quality}
    suffix = row.item.suffix if copied(row) else ".mp4"
    stem = "-".join(re.findall(r"[A-Za-z0-9_]+", Path(row.item.name).stem))[:80] or "clip"
    return f"{stem}-{json_sha256(made)[:12]}{suffix}"


def copied(row: Row) -> bool:
    """Whether a clip is its video as it is."""
    plain = row.whole and row.crop is None and row.damage is None
    return plain and row.item.suffix in video.VIDEO_SUFFIXES and row.item.single


def unique(rows: Sequence[Row], quality: int) -> dict[str, Row]:
    """The clips by their files' names; of those of the same content the first."""
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(file_name(row, quality), row)
    return found


def write_clip(row: Row, path: Path, quality: int, room: Path) -> None:
    """Write one clip.

    Raises:
        InputError: where its video can't be read any more.
    """
    with row.item.local(room) as source:
        if copied(row):
            copy(source, path)
            return
        end = None if row.whole else row.part.end
        lost: list[str] = []
        frames = video.until_damage(
            video.iter_frames(source, start=row.part.start, end=end, threads=1), lost if row.damage else _Refusing()
        )
        fps = row.scores.get("fps") or video.probe(source).fps
        video.write(path, (cropped(frame.image, row.crop) for frame in frames), fps, quality=quality)


class _Refusing(list[str]):
    """Damage that was not there when the video was scored is an error."""

    def append(self, text: str) -> None:
        raise InputError(f"{text}; it changed since it was scored: run the same command again")


def metadata(name: str, row: Row) -> dict[str, Any]:
    """What is said of a clip beside it, flat: its caption as `text`, where it comes from, and its scores.

    A score whose name is taken is called NAME_score: `text` is what readers of metadata take for the caption.
    """
    values: dict[str, Any] = {"file_name": name, "text": row.item.caption}
    values |= {"source": row.item.name, "start": rounded(row.part.start), "end": rounded(row.part.end)}
    return values | {f"{n}_score" if n in values else n: rounded(value) for n, value in row.scores.items()}


def write_folder(rows: Sequence[Row], shelf: Shelf, config: OutputConfig, events: Events) -> Written:
    """`clips/` and the metadata.jsonl that names them; what an earlier call wrote and is no longer wanted goes."""
    wanted, out = unique(rows, config.quality), shelf.out
    room, before = out / ".scores" / ROOM, listed(out)
    written, present, failed = 0, 0, list[str]()
    make_folder(out / CLIPS)
    _plan(out, before | {f"{CLIPS}/{name}" for name in wanted})
    good: dict[str, Row] = {}
    for done, (name, row) in enumerate(wanted.items()):
        path = out / CLIPS / name
        try:
            if shelf.has(f"{CLIPS}/{name}"):
                present += 1
            else:
                write_clip(row, path, config.quality, room)
                events.wrote(path)
                shelf.put(f"{CLIPS}/{name}")
                written += 1
            good[name] = row
        except UnansweredError:  # nothing about the clip
            raise
        except InputError as error:
            failed.append(f"{row.name}: {error}")
        advance(events, done + 1, len(wanted))
    lines = []
    for name, row in good.items():
        values = metadata(f"{CLIPS}/{name}", row)
        values["text"] = beside(out / CLIPS / name) or values["text"]  # of `kinolab data caption`, or by hand
        lines.append(json.dumps(values, ensure_ascii=False))
    write_text(out / METADATA, "".join(f"{line}\n" for line in lines))
    removed = 0
    for name in before - {f"{CLIPS}/{name}" for name in good}:
        removed += shelf.remove(name)
        shelf.remove(PurePosixPath(name).with_suffix(".txt").as_posix())
    _plan(out, {f"{CLIPS}/{name}" for name in good})
    return Written(written, present, removed, tuple(failed))


def beside(clip: Path) -> str | None:
    """The caption in the text beside a clip; None where there is none."""
    path = clip.with_suffix(".txt")
    return (" ".join(read_text(path).split()) or None) if path.is_file() else None


def _plan(out: Path, names: Set[str]) -> None:
    """Note which clips may be there, before the first is written and after the last is gone."""
    write_text(out / PLAN, "".join(f"{name}\n" for name in sorted(names)))


def listed(out: Path) -> set[str]:
    """The clips that earlier calls wrote below `clips/`, one that was stopped too."""
    path, names = out / METADATA, list[str]()
    if path.is_file():
        names += [str(row.get("file_name")) for _, row in json_lines(path, damaged="skip") if isinstance(row, dict)]
    if (out / PLAN).is_file():
        names += split_lines(reading.read_text(out / PLAN, LONGEST))
    return {name for name in names if CLIP.fullmatch(name)}


def may_be_ours(name: str) -> bool:
    """Whether a file of a folder may be one that a curation writes before its record, or a caption beside one."""
    clip = PurePosixPath(name)
    return bool(CLIP.fullmatch(name) or SHARD.fullmatch(name)) or (
        clip.suffix == ".txt" and CLIP.fullmatch(clip.with_suffix(".mp4").as_posix()) is not None
    )


def clear_others(shelf: Shelf, kind: str) -> int:
    """Remove what an earlier call wrote in another format, so that a folder holds one set; how many files that were."""
    old = _shards(shelf, [suffix for name, suffix in SHARDS.items() if name != kind])
    if kind != "folder" and (clips := sorted(listed(shelf.out))):
        old += [*clips, *(PurePosixPath(clip).with_suffix(".txt").as_posix() for clip in clips), METADATA, PLAN]
    there = [name for name in old if shelf.remove(name)]
    return sum(PurePosixPath(name).suffix not in (".json", ".jsonl", ".txt") for name in there)


def _shards(shelf: Shelf, suffixes: Collection[str]) -> list[str]:
    """The archives or Parquet files that are there, and the records beside them."""
    found = [(name, SHARD.fullmatch(name)) for name in shelf.names("clips-")]
    return [name for name, parts in found if parts and parts[1] in suffixes]


def write_shards(rows: Sequence[Row], shelf: Shelf, config: OutputConfig, events: Events) -> Written:
    """Parquet files or archives of so many clips each; one that holds what it should is left as it is."""
    out = shelf.out
    wanted = list(unique(rows, config.quality).items())
    suffix, room = SHARDS[config.format], out / ".scores" / ROOM
    pieces = [wanted[k : k + config.shard] for k in range(0, len(wanted), config.shard)]
    written, present, failed, names, done = 0, 0, list[str](), set[str](), 0
    for number, piece in enumerate(pieces):
        name = f"clips-{number:05d}{suffix}"
        made = json_sha256([metadata(clip, row) for clip, row in piece])
        problems: list[str] = []
        if shelf.has(name) and _made(out / f"{name}.json") == made:
            present += 1
        else:
            problems = _write_shard(out / name, piece, config, room)
            failed += problems
            if len(problems) < len(piece):
                # With a clip missing it is tried again the next time.
                record = {"made": "" if problems else made, "clips": len(piece) - len(problems)}
                write_record(out / f"{name}.json", record)
                events.wrote(out / name, "shard")
                for each in (name, f"{name}.json"):
                    shelf.put(each)
                written += 1
        if len(problems) < len(piece):
            names |= {name, f"{name}.json"}
        done += len(piece)
        advance(events, done, len(wanted))
    old = [each for each in _shards(shelf, [suffix]) if each not in names]
    for each in old:
        shelf.remove(each)
    return Written(written, present, sum(each.endswith(suffix) for each in old), tuple(failed))


def _made(path: Path) -> str | None:
    """What the record beside a shard says that it was made of."""
    value = read_json(path) if path.is_file() else None
    found = value.get("made") if isinstance(value, dict) else None
    return found if isinstance(found, str) else None


def _write_shard(path: Path, piece: Sequence[tuple[str, Row]], config: OutputConfig, room: Path) -> list[str]:
    """Make the clips of a shard in a folder that goes again, then the shard; what could not be made."""
    failed, good = list[str](), list[tuple[str, Row]]()
    with scratch(room) as place:
        for name, row in piece:
            try:
                write_clip(row, place / name, config.quality, room)
                good.append((name, row))
            except UnansweredError:  # nothing about the clip
                raise
            except InputError as error:
                failed.append(f"{row.name}: {error}")
        if not good:
            return failed
        if config.format == "parquet":
            parquet.write(path, [place / name for name, _ in good], [metadata(name, row) for name, row in good])
            return failed
        with new_archive(path) as archive:
            for name, row in good:
                stem = Path(name).stem.replace(".", "_")
                values = metadata(name, row)
                archive.add(f"{stem}.json", json.dumps(values, ensure_ascii=False).encode())
                archive.add(f"{stem}{Path(name).suffix}", read_bytes(place / name, LONGEST))
                if row.item.caption:
                    archive.add(f"{stem}.txt", row.item.caption.encode())
    return failed
