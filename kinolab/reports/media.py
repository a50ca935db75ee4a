"""The videos of a report: files in `media/` beside it, copied where a browser plays them and written anew where not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kinolab import video
from kinolab.errors import InputError
from kinolab.evaluation.heatmap import SCALE, write_heatmap
from kinolab.reports.blocks import SyncedVideos
from kinolab.runtime.files import copy
from kinolab.runtime.paths import real

FOLDER = "media"
PLAYED = {".mp4": {"h264", "vp9", "av1"}, ".m4v": {"h264"}, ".webm": {"vp8", "vp9", "av1"}}
"""Endings and codecs that today's browsers play."""
EVENLY = 6
"""Videos that stand side by side at most."""


class Media:
    """The videos that a report is going to show. `use` checks and names each, `write` makes the files.

    So a missing one is known before anything is written.
    """

    def __init__(self) -> None:
        self._names: dict[str, Path] = {}
        self._again: set[str] = set()

    def use(self, source: Path, group: str) -> str:
        """The name, relative to the report, that a video is going to have; `group` keeps apart equal names.

        Raises:
            InputError: where the video is not there or can't be read.
        """
        info = video.probe(source)
        played = info.codec in PLAYED.get(source.suffix.lower(), set()) and info.pixel_format.startswith("yuv")
        stem, ending = (
            slug(source.stem if source.is_file() else source.name),
            source.suffix.lower() if played else ".mp4",
        )
        name = f"{FOLDER}/{slug(group)}/{stem}{ending}"
        number = 2
        while self._names.get(name, source) != source:
            name, number = f"{FOLDER}/{slug(group)}/{stem}-{number}{ending}", number + 1
        self._names[name] = source
        if not played:
            self._again.add(name)
        return name

    def write(self, folder: Path) -> None:
        """Copy or write every video below the folder of the report, each atomically."""
        for name, source in self._names.items():
            target = folder / name
            if real(target) == real(source):
                continue
            if name in self._again:
                fps = video.probe(source).fps
                video.write(target, (f.image for f in video.iter_frames(source)), fps, quality=95)
            else:
                copy(source, target)


def clock(path: Path) -> tuple[float, int]:
    """Frame rate and number of frames of a video."""
    info = video.probe(path)
    frames = info.frames if info.frames is not None else video.probe(path, exact=True).frames
    if not frames:
        raise InputError(f"{path}: holds no frames that can be counted")
    return info.fps, frames


def compared(
    title: str,
    original: np.ndarray,
    reconstruction: np.ndarray,
    fps: float,
    page: Path,
    *,
    scale: float = SCALE,
    facts: Mapping[str, str] | None = None,
) -> SyncedVideos:
    """Original, reconstruction and the heat map of the error, written as videos beside the report `page`.

    Frames are (T, H, W, 3) uint8; the error is that of these frames, not of the files, which are compressed a little.
    """
    base = f"{FOLDER}/{slug(title)}"
    names = {part: f"{base}/{part}.mp4" for part in ("original", "reconstruction", "error")}
    write_heatmap(page.parent / names["error"], original, reconstruction, fps, scale)
    for part, frames in (("original", original), ("reconstruction", reconstruction)):
        video.write(page.parent / names[part], frames, fps, quality=95)
    shown = tuple((part, names[part]) for part in ("original", "reconstruction"))
    return SyncedVideos(title, shown, fps, len(original), names["error"], scale, facts or {})


def spread(count: int, most: int = EVENLY) -> list[int]:
    """At most `most` of the numbers below `count`, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(k * (count - 1) / (most - 1)) for k in range(most)})


def slug(text: str) -> str:
    """Text as part of a file name that needs no coding in a URL."""
    return "-".join(re.findall(r"[A-Za-z0-9_.]+", text)).strip(".-") or "x"
