"""Cut copies of a folder of clips, by a file that says what of each: parts in seconds, a crop, or nothing of it.

    clips:
      street.mp4: {parts: [{start: 0.5, end: 3.0}, {start: 7.2, end: 9.0}], crop: [0.25, 0.0, 0.5, 1.0]}
      blurred.mp4: {use: false}

The clips themselves stay as they are. The studio writes such a file as its project's `data.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from kinolab import video
from kinolab.config import Config, load_config
from kinolab.contracts.events import Listener, advance, events_of
from kinolab.data.scan import find_clips
from kinolab.data.shrink import QUALITY
from kinolab.errors import InputError
from kinolab.runtime import reading
from kinolab.runtime.files import copy
from kinolab.runtime.logs import Appender
from kinolab.runtime.paths import inside, real
from kinolab.runtime.summed import summed

RECORD = ".cut.jsonl"
"""In the folder of copies: for each of them what it was made of and how, one line a copy, the last one holds."""


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
    """What became of a folder: copies written now, those there already, clips left out, and those that failed."""

    written: int
    present: int
    left_out: int
    failed: tuple[str, ...]


def cut(folder: Path, edits: Path, out: Path, *, events: Listener = None) -> CutSummary:
    """Write what is to be taken of every clip of a folder, with its caption, to another.

    A copy that was made of the same file in the same way is passed over, so that an interrupted call goes on.

    Raises:
        InputError: where the folder or the file is missing, the file names a clip that is not there, or `out` lies
            in the folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of clips")
    if real(out).is_relative_to(real(folder)):
        raise InputError(f"{out}: lies inside {folder}; choose a folder beside it")
    config = load_config(CutConfig, edits)
    names = find_clips(folder)[0]
    for name in config.clips:
        if name not in names:
            raise InputError(f"{edits}: clips: {name}: no such clip in {folder}")
    written, present, left_out, failed, told = 0, 0, 0, list[str](), events_of(events)
    made = _made(out)
    with Appender(out / RECORD) as record:
        for done, name in enumerate(names):
            edit = config.clips.get(name, EditConfig())
            left_out += not edit.use
            for target, part in _targets(name, edit) if edit.use else ():
                wanted = _making(folder / name, part, edit)
                path = inside(out, target, new=True)
                if path.exists() and made.get(target) == wanted:
                    present += 1
                    continue
                try:
                    _copy(folder / name, path, part, edit)
                except InputError as error:
                    failed.append(str(error))
                    continue
                record.write(summed({"copy": target, "made": wanted}))
                told.wrote(path)
                written += 1
            advance(told, done + 1, len(names))
    return CutSummary(written, present, left_out, tuple(failed))


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
    return {str(row.get("copy")): row.get("made") for row in rows}


def _making(source: Path, part: PartConfig | None, edit: EditConfig) -> dict[str, Any]:
    """How a copy is made, and the marks by which a changed source is noticed without reading it."""
    status = source.stat()
    span = None if part is None else [part.start, part.end]
    crop = None if edit.crop is None else list(edit.crop)
    return {"part": span, "crop": crop, "quality": QUALITY, "bytes": status.st_size, "modified": status.st_mtime_ns}


def _copy(source: Path, target: Path, part: PartConfig | None, edit: EditConfig) -> None:
    """Write one copy and the caption beside it."""
    if part is None and edit.crop is None:
        if source.is_dir():
            video.write(target, (frame.image for frame in video.iter_frames(source)), video.probe(source).fps)
        else:
            copy(source, target)
    else:
        start, end = (0.0, None) if part is None else (part.start, part.end)
        frames = video.iter_frames(source, start=start, end=end)
        cropped = (_cropped(frame.image, edit.crop) for frame in frames)
        video.write(target, cropped, video.probe(source).fps, quality=QUALITY)
    caption = source.with_suffix(".txt")
    if caption.is_file():
        copy(caption, target.with_suffix(".txt"))


def _cropped(image: np.ndarray, crop: tuple[float, float, float, float] | None) -> np.ndarray:
    """The part of a picture (H, W, 3), of whole pixels and at least one."""
    if crop is None:
        return image
    height, width = image.shape[:2]
    left, top = round(crop[0] * width), round(crop[1] * height)
    right = max(left + 1, round((crop[0] + crop[2]) * width))
    bottom = max(top + 1, round((crop[1] + crop[3]) * height))
    return image[min(top, height - 1) : bottom, min(left, width - 1) : right]
