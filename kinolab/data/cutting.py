"""Cut copies of a folder of clips, by a file that says what of each: parts in seconds, a crop, or nothing of it.

    clips:
      street.mp4: {parts: [{start: 0.5, end: 3.0}, {start: 7.2, end: 9.0}], crop: [0.25, 0.0, 0.5, 1.0]}
      blurred.mp4: {use: false}

The clips themselves stay as they are. The studio writes such a file as its project's `data.yaml`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from kinolab import video
from kinolab.config import Config, load_config
from kinolab.contracts.events import Listener, advance, events_of
from kinolab.data.annotations import annotate
from kinolab.data.scan import find_clips
from kinolab.data.shrink import QUALITY
from kinolab.data.tables import TABLE_NAMES
from kinolab.data.texts import CLIP_FILES, PROMPT_FILES
from kinolab.errors import InputError
from kinolab.runtime import reading
from kinolab.runtime.files import copy, remove, write_text
from kinolab.runtime.logs import Appender
from kinolab.runtime.paths import inside, real, visible
from kinolab.runtime.remote import local
from kinolab.runtime.summed import summed

RECORD = ".cut.jsonl"
"""In the folder of copies: for each of them what it was made of and how, one line a copy, the last one holds."""
TABLE = "captions.jsonl"
"""In the folder of copies: what the tables of the folder of clips say, by the names of the copies."""


class PartConfig(Config):
    """One part of a clip."""

    start: float = Field(ge=0)
    """Seconds of its first frame."""
    end: float
    """Seconds that its last frame begins before."""

    @model_validator(mode="after")
    def _check(self) -> PartConfig:
        if self.end <= self.start:
            raise ValueError(f"end: expected later than start, got {self.start:g} to {self.end:g} seconds")
        return self


class EditConfig(Config):
    """What of a clip is taken."""

    use: bool = True
    """False leaves the clip out."""
    parts: tuple[PartConfig, ...] = ()
    """The parts that become clips of their own; none = all of it."""
    crop: tuple[float, float, float, float] | None = None
    """Left, top, width and height as shares of the picture; none = all of it."""

    @model_validator(mode="after")
    def _check(self) -> EditConfig:
        if self.crop is not None:
            x, y, width, height = self.crop
            if min(x, y) < 0 or min(width, height) <= 0 or x + width > 1.00001 or y + height > 1.00001:
                raise ValueError("crop: expected left, top, width and height as shares of the picture, inside it")
        return self


class CutConfig(Config):
    """What `kinolab data cut` reads."""

    clips: dict[str, EditConfig] = Field(default_factory=dict)
    """By the name of each clip below the folder; one that is not named is taken whole."""


@dataclass(frozen=True)
class CutSummary:
    """What became of a folder: copies written now, those there already, clips left out, those that failed, and what
    an earlier call wrote that was removed."""

    written: int
    present: int
    left_out: int
    failed: tuple[str, ...]
    removed: int = 0


def cut(folder: Path, edits: Path, out: Path, *, events: Listener = None) -> CutSummary:
    """Write what is to be taken of every clip of a folder, with its captions and labels, to another.

    A copy that was made of the same file in the same way is passed over, so that an interrupted call goes on. Captions
    and tables are those of now, whatever is passed over, and what an earlier call wrote and is no longer wanted goes.

    Raises:
        InputError: where the folder or the file is missing, the file names a clip that is not there, two copies would
            have one name, or `out` lies in the folder.
    """
    folder = local(folder, events_of(events).progress)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of clips")
    if real(out).is_relative_to(real(folder)):
        raise InputError(f"{out}: lies inside {folder}; choose a folder beside it")
    config = load_config(CutConfig, edits)
    names = find_clips(folder)[0]
    for name in config.clips:
        if name not in names:
            raise InputError(f"{edits}: clips: {name}: no such clip in {folder}")
    taken = {name: edit for name in names if (edit := config.clips.get(name, EditConfig())).use}
    copies = _copies(folder, taken)
    captions = _captions(folder, copies)
    written, present, failed, told = 0, 0, list[str](), events_of(events)
    tables, rows = _tables(folder, copies, failed)
    made = _made(out)
    with Appender(out / RECORD) as record:
        kept = {*copies, *tables, *captions, *([TABLE] if rows else ())}
        removed = _remove(out, [name for name in made if name not in kept], record)
        _write_tables(out, tables, rows, made, record, failed)
        for done, copied in enumerate(copies.values()):
            source, target = folder / copied.name, copied.target
            try:
                wanted, path = _making(source, copied.part, copied.edit), inside(out, target, new=True)
                if path.exists() and made.get(target) == wanted:
                    present += 1
                else:
                    _copy(source, path, copied.part, copied.edit)
                    record.write(summed({"copy": target, "made": wanted}))
                    told.wrote(path)
                    written += 1
                _copy_caption(out, target, captions, made, record)
            except InputError as error:
                failed.append(str(error))
                removed += _remove(out, [target] if target in made else [], record)
            advance(told, done + 1, len(copies))
    return CutSummary(written, present, len(names) - len(taken), tuple(failed), removed)


@dataclass(frozen=True)
class _Copied:
    """One copy: its name, and the clip, the part of it and the edit that it is made by."""

    target: str
    name: str
    part: PartConfig | None
    edit: EditConfig


def _copies(folder: Path, taken: Mapping[str, EditConfig]) -> dict[str, _Copied]:
    """All copies of the clips that are taken, by their names.

    Raises:
        InputError: where two would have one name, or one name for their captions.
    """
    copies: dict[str, _Copied] = {}
    for name, edit in taken.items():
        for target, part in _targets(name, edit):
            if target in copies:
                raise InputError(
                    f"{name}: its copy would be {target}, as that of {copies[target].name}; rename one of the clips"
                )
            copies[target] = _Copied(target, name, part, edit)
    return copies


def _caption(name: str) -> str:
    """What the caption of a clip or of a copy is called."""
    return Path(name).with_suffix(".txt").as_posix()


def _captions(folder: Path, copies: Mapping[str, _Copied]) -> dict[str, Path]:
    """By the name that it gets, each caption beside a clip.

    Raises:
        InputError: where one would get the name of another, or stand beside a copy of a clip that has none.
    """
    by: dict[str, _Copied] = {}
    captions: dict[str, Path] = {}
    for target, copied in copies.items():
        path, other = folder / _caption(copied.name), by.setdefault(_caption(target), copied)
        theirs = folder / _caption(other.name)
        if theirs != path and (theirs.is_file() or path.is_file()):
            raise InputError(
                f"{copied.name}: the caption of its copy {target} would be that of {other.target} too; rename one of "
                "the clips"
            )
        if path.is_file():
            captions[_caption(target)] = path
    return captions


def _tables(
    folder: Path, copies: Mapping[str, _Copied], failed: list[str]
) -> tuple[dict[str, Path], list[dict[str, Any]]]:
    """Tables that are copied as they are, and the rows of the one that stands for those that are read by their names.

    The names in a table are those of the clips, and those of copies may be others; so what a folder's own tables say is
    written anew. One that can't be read is told in `failed`.
    """
    kept, lists, own = dict[str, Path](), set[str](), False
    for path in visible(folder, "**/*"):
        name = path.name.lower()
        usual = name in TABLE_NAMES
        if path.parent == folder and usual:
            own = True
        elif path.parent == folder and name in (*PROMPT_FILES, *CLIP_FILES):
            lists.add(name)
        elif (usual or path.suffix.lower() in (".csv", ".tsv", ".jsonl")) and path.is_file():
            kept[path.relative_to(folder).as_posix()] = path
    if not own and not (lists & {*PROMPT_FILES} and lists & {*CLIP_FILES}):
        return kept, []
    try:
        found = annotate(folder, sorted({c.name for c in copies.values()}), "auto", "auto", "drop", whole=False)
    except InputError as error:
        failed.append(str(error))
        return kept, []
    rows = list[dict[str, Any]]()
    for target, copied in copies.items():
        row: dict[str, Any] = {"file": target}
        if copied.name in found.captions:
            row["caption"] = [found.captions[copied.name], *found.alternatives.get(copied.name, ())]
        if copied.name in found.labels:
            row["label"] = found.classes[found.labels[copied.name]]
        rows += [row] if len(row) > 1 else []
    return kept, rows


def _write_tables(
    out: Path,
    tables: Mapping[str, Path],
    rows: Sequence[Mapping[str, Any]],
    made: Mapping[str, Any],
    record: Appender,
    failed: list[str],
) -> None:
    """Write the tables, and in the record which they are."""
    for name, source in tables.items():
        try:
            copy(source, inside(out, name, new=True))
        except InputError as error:
            failed.append(str(error))
    if rows:
        write_text(out / TABLE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    for name in [*tables, *([TABLE] if rows else [])]:
        if name not in made:
            record.write(summed({"copy": name, "made": {"table": True}}))


def _remove(out: Path, names: Sequence[str], record: Appender) -> int:
    """Remove what an earlier call made; returns how much that was."""
    removed = 0
    for name in names:
        try:
            path = inside(out, name)
        except InputError:  # nothing that was made has such a name
            continue
        removed += path.exists()
        remove(path)
        record.write(summed({"copy": name, "made": None}))
    return removed


def _targets(name: str, edit: EditConfig) -> Iterator[tuple[str, PartConfig | None]]:
    """The name of each copy, and its part of the clip."""
    path = Path(name)
    if not edit.parts and edit.crop is None:
        yield name, None
        return
    parts: Sequence[PartConfig | None] = edit.parts or (None,)
    for k, part in enumerate(parts):
        number = f"-{k + 1}" if len(parts) > 1 else ""
        yield path.with_name(f"{path.stem}{number}.mp4").as_posix(), part


def _made(out: Path) -> dict[str, Any]:
    """How each copy was made; a copy of which the record says nothing is made again."""
    path = out / RECORD
    if not path.exists():
        return {}
    rows = (row for _, row in reading.json_lines(path, damaged="skip") if isinstance(row, dict))
    found = {str(row.get("copy")): row.get("made") for row in rows}
    return {name: how for name, how in found.items() if how is not None}  # none: removed since


def _making(source: Path, part: PartConfig | None, edit: EditConfig) -> dict[str, Any]:
    """How a copy is made, and the marks by which a changed source is noticed without reading it."""
    status = source.stat()
    span = None if part is None else [part.start, part.end]
    crop = None if edit.crop is None else list(edit.crop)
    return {"part": span, "crop": crop, "quality": QUALITY, "bytes": status.st_size, "modified": status.st_mtime_ns}


def _copy(source: Path, target: Path, part: PartConfig | None, edit: EditConfig) -> None:
    """Write one copy."""
    if part is None and edit.crop is None:
        if source.is_dir():
            video.write(target, (frame.image for frame in video.iter_frames(source)), video.probe(source).fps)
        else:
            copy(source, target)
    else:
        start, end = (0.0, None) if part is None else (part.start, part.end)
        frames = video.iter_frames(source, start=start, end=end)
        shown = (cropped(frame.image, edit.crop) for frame in frames)
        video.write(target, shown, video.probe(source).fps, quality=QUALITY)


def _copy_caption(
    out: Path, target: str, captions: Mapping[str, Path], made: Mapping[str, Any], record: Appender
) -> None:
    """Write the caption that a copy's clip has now, if any."""
    name = _caption(target)
    if name in captions:
        copy(captions[name], inside(out, name, new=True))
        if name not in made:
            record.write(summed({"copy": name, "made": {"caption": True}}))


def cropped(image: np.ndarray, crop: tuple[float, float, float, float] | None) -> np.ndarray:
    """The part of a picture (H, W, 3): left, top, width and height as shares, of whole pixels and at least one."""
    if crop is None:
        return image
    height, width = image.shape[:2]
    left, top = round(crop[0] * width), round(crop[1] * height)
    right = max(left + 1, round((crop[0] + crop[2]) * width))
    bottom = max(top + 1, round((crop[1] + crop[3]) * height))
    return image[min(top, height - 1) : bottom, min(left, width - 1) : right]
