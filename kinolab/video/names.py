"""Which files of a folder are frames, by their names alone: series of numbered images, and what isn't meant at all."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from kinolab.runtime.paths import is_left_behind, is_passed_over

IMAGE_SUFFIXES = frozenset({".png", ".apng", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".avif"})
"""Endings of images that can be frames of a series, or stills."""

VIDEO_SUFFIXES = frozenset(
    {
        ".mp4", ".webm", ".mkv", ".avi", ".mov", ".gif", ".webp", ".m4v", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv",
        ".flv", ".ogv",
    }
)  # fmt: skip
"""Endings that `probe`, `iter_frames` and `read` take for video files (a folder of images and a still work too)."""

FILLED = 0.9
"""Share of the places of a series that must hold an image; with fewer, images are no frames of one clip."""

_NUMBERED = re.compile(r"^(.*?)(\d+)$")
_WRITTEN_IMAGE = re.compile(r"\d+\.png")


@dataclass(frozen=True)
class Series:
    """Numbered images of one clip: names in order, and the place of each, counted from 0 in steps of the numbering.

    Places that are left out belong to frames that are missing.
    """

    names: tuple[str, ...]
    places: tuple[int, ...]

    @property
    def missing(self) -> int:
        """How many frames between the first and the last are not there."""
        return self.places[-1] + 1 - len(self.places)


def visible_files(folder: Path) -> list[Path]:
    """All files below a folder, sorted, but for what is hidden or left behind."""
    found = (path for path in folder.rglob("*") if not any(map(is_passed_over, path.relative_to(folder).parts)))
    return sorted(path for path in found if path.is_file())


def images_of(folder: Path) -> list[str]:
    """The names of the images in a folder, in natural order; hidden files and others are left aside."""
    return in_order(entry.name for entry in folder.iterdir() if is_image(entry.name) and entry.is_file())


def videos_of(folder: Path) -> list[str]:
    """The names of the videos in a folder, in natural order, but for what is hidden, and images that move."""
    return in_order(entry.name for entry in folder.iterdir() if is_video(entry.name) and entry.is_file())


def is_video(name: str) -> bool:
    """Whether a name is that of a video, or a gif, which isn't hidden; images that may move are images."""
    suffix = PurePath(name).suffix.lower()
    return suffix in VIDEO_SUFFIXES and suffix not in IMAGE_SUFFIXES and not is_passed_over(name)


def is_image(name: str) -> bool:
    """Whether a name is that of an image which isn't hidden."""
    return PurePath(name).suffix.lower() in IMAGE_SUFFIXES and not is_passed_over(name)


def series(names: Iterable[str]) -> Series | None:
    """Images as one clip, where they are one: names that are equal but for a number that counts in equal steps.

    Every frame may be stored, or every fifth (00000, 00005, ...). Up to a tenth of them may be missing. Two images that
    aren't neighbours are a clip only where their numbers have leading zeros: a program wrote those.

    Args:
        names: names of images (see `is_image`), in any order.
    """
    found: list[tuple[int, str]] = []
    prefixes = set()
    for name in names:
        if (match := _NUMBERED.match(PurePath(name).stem)) is None:
            return None
        prefixes.add(match[1])
        found.append((int(match[2]), name))
    found.sort()
    numbers = [number for number, _ in found]
    if len(found) < 2 or len(prefixes) > 1 or len(set(numbers)) < len(numbers):
        return None
    step = math.gcd(*(number - numbers[0] for number in numbers))
    places = tuple((number - numbers[0]) // step for number in numbers)
    padded = any(_digits(name).startswith("0") and len(_digits(name)) > 1 for _, name in found)
    if len(found) < FILLED * (places[-1] + 1) or (len(found) == 2 and step > 1 and not padded):
        return None
    return Series(tuple(name for _, name in found), places)


def in_order(names: Iterable[str]) -> list[str]:
    """Names in natural order: "frame2" before "frame10"."""
    return sorted(names, key=lambda name: (list(_parts(name)), name))


def only_numbered_images(path: Path) -> bool:
    """True for a folder that is empty or holds nothing but images named by numbers, as `video.write` makes them."""
    return path.is_dir() and all(_WRITTEN_IMAGE.fullmatch(f.name) or is_left_behind(f.name) for f in path.iterdir())


def _parts(name: str) -> Iterator[tuple[int, int, str]]:
    for part in re.split(r"(\d+)", name):
        if part:
            yield (0, int(part), "") if part.isdecimal() else (1, 0, part.lower())


def _digits(name: str) -> str:
    match = _NUMBERED.match(PurePath(name).stem)
    return match[2] if match else ""
