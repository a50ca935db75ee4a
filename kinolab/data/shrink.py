"""Small copies of a folder of clips: training that reads 4K files decodes far more than it trains on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kinolab import video
from kinolab.data.scan import find_clips
from kinolab.errors import InputError

KEPT_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")
"""Clips in these formats keep their names, so that tables of captions still fit; others become lossless .mkv."""
ANNOTATIONS = (".txt", ".csv", ".tsv", ".jsonl")
QUALITY = 95


@dataclass(frozen=True)
class ShrinkSummary:
    """What became of a folder: clips written now, clips there already, those left out with the cause, and those of
    which only the frames before some damage could be copied."""

    written: int
    present: int
    failed: tuple[str, ...]
    partial: tuple[str, ...] = ()


def shrink(
    folder: Path, out: Path, side: int, *, fps: float | None = None, progress: Callable[[int, int], None] | None = None
) -> ShrinkSummary:
    """Copy every clip of `folder` to `out` with a shorter side of `side` pixels; smaller clips keep their size.

    Captions and tables beside the clips are copied too; still images are not. A clip whose copy exists is passed
    over, so that an interrupted call goes on where it stopped. Colour is stored at half the resolution (H.264), so
    `side` should be about twice what is trained on.

    Args:
        fps: re-time to this rate; None = the frames as stored, evenly spaced.
        progress: called with (clips done, clips in all).

    Raises:
        InputError: where the folder is missing or holds no clip, `out` lies in it, or two clips would share a name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of clips")
    if out.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{out}: lies inside {folder}; choose a folder beside it")
    targets = _targets(folder, out)
    if not targets:
        raise InputError(f"{folder}: no clips; expected {', '.join(sorted(video.VIDEO_SUFFIXES))} or folders of images")
    written, present, failed, partial = 0, 0, list[str](), list[str]()
    for done, (name, target) in enumerate(targets.items()):
        if target.exists():
            present += 1
        else:
            try:
                partial += _copy(folder / name, target, side, fps)
                written += 1
            except InputError as error:
                failed.append(str(error))
        if progress is not None:
            progress(done + 1, len(targets))
    _copy_annotations(folder, out)
    return ShrinkSummary(written, present, tuple(failed), tuple(partial))


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
    for place, _, files in os.walk(folder):
        for file in files:
            if Path(file).suffix.lower() in ANNOTATIONS and not file.startswith("."):
                target = out / Path(place).relative_to(folder) / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(place) / file, target)
