"""Small copies of a folder of clips: training that reads 4K files decodes far more than it trains on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinolab import video
from kinolab.contracts.events import Listener, advance, events_of
from kinolab.data.scan import find_clips
from kinolab.data.tables import TABLE_NAMES
from kinolab.errors import InputError
from kinolab.runtime import reading
from kinolab.runtime.files import copy
from kinolab.runtime.hashes import file_sha256, json_sha256
from kinolab.runtime.logs import Appender
from kinolab.runtime.paths import is_passed_over, real, visible
from kinolab.runtime.remote import local
from kinolab.runtime.summed import summed

RECORD = ".shrink.jsonl"
"""In the folder of copies: for each of them what it was made of and how, one line a copy, the last one holds."""
KEPT_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")
"""Clips in these formats keep their names, so that tables of captions still fit; others become lossless .mkv."""
ANNOTATIONS = (".txt", ".csv", ".tsv", ".jsonl")
QUALITY = 95


@dataclass(frozen=True)
class ShrinkSummary:
    """What became of a folder: clips written now, clips there already, those left out with the cause, and those of
    which only the frames before some damage could be copied.

    `renewed` counts those of the written ones whose copy was there, made with other settings or of another content.
    """

    written: int
    present: int
    failed: tuple[str, ...]
    renewed: int = 0
    partial: tuple[str, ...] = ()


def shrink(folder: Path, out: Path, side: int, *, fps: float | None = None, events: Listener = None) -> ShrinkSummary:
    """Copy every clip of `folder` to `out` with a shorter side of `side` pixels; smaller clips keep their size.

    Captions and tables beside the clips are copied too; still images are not. A clip whose copy was made of the same
    content with the same settings is passed over, so that an interrupted call goes on where it stopped; any other copy
    is made again. Colour is stored at half the resolution (H.264), so
    `side` should be about twice what is trained on.

    Args:
        fps: re-time to this rate; None = the frames as stored, evenly spaced.
        events: counts clips.

    Raises:
        InputError: where the folder is missing or holds no clip, `out` lies in it, or two clips would share a name.
    """
    folder = local(folder, events_of(events).progress)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of clips")
    if real(out).is_relative_to(real(folder)):
        raise InputError(f"{out}: lies inside {folder}; choose a folder beside it")
    targets = _targets(folder, out)
    if not targets:
        raise InputError(f"{folder}: no clips; expected {', '.join(sorted(video.VIDEO_SUFFIXES))} or folders of images")
    written, present, renewed, failed, partial = 0, 0, 0, list[str](), list[str]()
    made, told = _made(out), events_of(events)
    with Appender(out / RECORD) as record:
        for done, (name, target) in enumerate(targets.items()):
            known, wanted = made.get(_name(out, target)), _making(folder / name, side, fps)
            there = target.exists()
            try:
                if there and known is not None and _same(folder / name, known, wanted):
                    present += 1
                else:
                    partial += _copy(folder / name, target, side, fps)
                    wanted["source_sha256"] = _content_hash(folder / name)
                    record.write(summed({"copy": _name(out, target), **wanted}))
                    told.wrote(target)
                    written += 1
                    renewed += there
            except InputError as error:
                failed.append(str(error))
            advance(told, done + 1, len(targets))
    _copy_annotations(folder, out)
    return ShrinkSummary(written, present, tuple(failed), renewed, tuple(partial))


def _made(out: Path) -> dict[str, dict[str, Any]]:
    """What the folder's record says of each copy; a copy of which it says nothing is made again."""
    path = out / RECORD
    if not path.exists():
        return {}
    lines = (line for _, line in reading.json_lines(path, damaged="skip"))
    return {str(line["copy"]): line for line in lines if isinstance(line, dict) and "copy" in line}


def _name(out: Path, target: Path) -> str:
    return target.relative_to(out).as_posix()


def _making(source: Path, side: int, fps: float | None) -> dict[str, Any]:
    """The settings of a copy, and the marks by which a changed source is noticed without reading it."""
    files = [p for p in visible(source) if p.is_file()] if source.is_dir() else [source]
    marks = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files]
    return {"side": side, "fps": fps, "quality": QUALITY, "marks": marks}


def _same(source: Path, known: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether a copy was made as it would be now: the same settings, and the same content whatever its time stamps."""
    if any(known.get(name) != wanted[name] for name in ("side", "fps", "quality")):
        return False
    return known.get("marks") == wanted["marks"] or known.get("source_sha256") == _content_hash(source)


def _content_hash(source: Path) -> str:
    """sha256 of a file, or of the names and contents of a folder of images."""
    if not source.is_dir():
        return file_sha256(source)
    return json_sha256([[p.name, file_sha256(p)] for p in visible(source) if p.is_file()])


def _targets(folder: Path, out: Path) -> dict[str, Path]:
    """Each clip's name below `folder`, and the file that its copy becomes."""
    targets: dict[str, Path] = {}
    taken: set[Path] = set()
    for name in find_clips(folder)[0]:
        source = folder / name
        moving = source.suffix.lower() in video.VIDEO_SUFFIXES or video.is_animated(source)
        if source.is_file() and not moving:
            continue  # a still image
        kept = source.is_file() and source.suffix.lower() in KEPT_SUFFIXES
        target = out / (name if kept else Path(name).with_suffix(".mkv"))
        if target in taken:
            raise InputError(f"{name}: its copy would be {target}, as that of another clip; rename one of them")
        taken.add(target)
        targets[name] = target
    return targets


def _copy(source: Path, target: Path, side: int, fps: float | None) -> list[str]:
    """Write one copy, which lasts as long as its source; what was lost on the way, in words."""
    info = video.probe(source)
    size = min(side, info.height, info.width)
    lost: list[str] = []
    frames = (frame.image for frame in video.until_damage(video.iter_frames(source, size=size, fps=fps), lost))
    lossless = target.suffix == ".mkv" and source.suffix.lower() != ".mkv"
    video.write(target, frames, fps or info.fps, quality=QUALITY, lossless=lossless)
    return lost


def _copy_annotations(folder: Path, out: Path) -> None:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_passed_over(name)]
        for file in files:
            kept = Path(file).suffix.lower() in ANNOTATIONS or file.lower() in TABLE_NAMES
            if kept and not is_passed_over(file):
                copy(Path(place) / file, out / Path(place).relative_to(folder) / file)
