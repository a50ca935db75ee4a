"""What Pillow reads: stills, folders of images, animated webp, PNG and AVIF (part of `kinolab.video`)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, features

from kinolab.errors import InputError
from kinolab.runtime.reading import read_bytes
from kinolab.video.animations import durations_of
from kinolab.video.codec import av
from kinolab.video.files import cut_short, unreadable
from kinolab.video.names import IMAGE_SUFFIXES, images_of, series, videos_of
from kinolab.video.picture import rgb_of
from kinolab.video.sources import Shown, Source, VideoInfo, mean_rate, rational, ready

# What Pillow raises for data that it can't make a picture of, by format.
LONGEST = 2**32  # bytes of a webp: what its header can say
BROKEN = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, Image.DecompressionBombError)


def open_image(path: Path, fps: float) -> Source:
    """An image file as a source: a clip where it is animated, else one frame.

    Raises:
        InputError: for a file that isn't an image, or of a format that this Pillow can't read.
    """
    durations = durations_of(path)
    return Animated(path, durations) if durations else Images(path, [path], fps)


def open_folder(path: Path, fps: float) -> Source:
    """A folder of images as one clip, in natural order; frames that are missing in a numbered series leave gaps."""
    names = images_of(path)
    if found := videos_of(path):
        more = len(found) - 1
        some = f"{found[0]} and {more} more video{'s' * (more > 1)}" if more else f"the video {found[0]}"
        beside = f" beside {len(names)} image{'s' * (len(names) != 1)}" if names else ""
        raise InputError(f"{path}: a folder of clips and no clip, as it holds {some}{beside}; name one of them")
    if not names:
        raise InputError(f"{path}: a folder without images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    numbered = series(names)
    if numbered is None:
        return Images(path, [path / name for name in names], fps)
    return Images(path, [path / name for name in numbered.names], fps, numbered.places)


class Images(Source):
    """Images of one size, shown at a given rate; `places` are their numbers on the time line."""

    def __init__(self, path: Path, files: list[Path], fps: float, places: Sequence[int] | None = None) -> None:
        self.path, self.files, self.rate = path, files, rational(fps, "image_fps")
        self.places = list(places) if places is not None else list(range(len(files)))
        self.size = self._size(files[0])
        for file in files[1:]:
            size = self._size(file)
            if size != self.size:
                raise InputError(
                    f"{file}: {size[0]}x{size[1]} pixels, but {files[0].name} has {self.size[0]}x{self.size[1]}"
                )

    def _size(self, file: Path) -> tuple[int, int]:
        """(width, height), upright, from the header."""
        try:
            with Image.open(file) as image:
                turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
                return image.size[::-1] if turned else image.size
        except PermissionError:
            raise
        except BROKEN:
            raise InputError(f"{file}: {not_readable(file)}") from None

    def info(self, exact: bool) -> VideoInfo:
        count, places = len(self.files), self.places[-1] + 1
        suffix = self.files[0].suffix.lower().lstrip(".")
        for file in self.files if exact else self.files[:1]:
            self._load(file)
        seconds = places / float(self.rate)
        info = _image_info(self.path, self.size, count, seconds, self.rate, "images", suffix, self.notes())
        return info

    def notes(self) -> list[str]:
        missing = self.places[-1] + 1 - len(self.places)
        if not missing:
            return []
        first = next(k for k, place in enumerate(self.places) if place != k)
        return [f"{missing} frame{'s' * (missing > 1)} missing, the first after {self.files[first - 1].name}"]

    def frames(self, start: float) -> Iterator[Shown]:
        rate = float(self.rate)
        following = [*self.places[1:], self.places[-1] + 1]
        for file, place, after in zip(self.files, self.places, following, strict=True):
            yield Shown(place / rate, (after - place) / rate, partial(self._load, file))

    def _load(self, file: Path) -> av.VideoFrame:
        try:
            with Image.open(file) as image:
                return _frame(rgb_of(ImageOps.exif_transpose(image)))
        except BROKEN:
            raise InputError(f"{file}: a damaged or truncated image") from None


class Animated(Source):
    """An animated webp, PNG or AVIF; `durations` are the seconds that each frame is shown."""

    slack = 0.001  # times are cut to milliseconds

    def __init__(self, path: Path, durations: Sequence[float]) -> None:
        self.path, self.durations = path, list(durations)
        try:
            self.image = Image.open(_with_alpha(path) if path.suffix.lower() == ".webp" else path)
        except PermissionError:
            raise
        except BROKEN:
            raise InputError(f"{path}: {not_readable(path)}") from None
        # A PNG may hold a picture for readers that know no animations, before its first frame.
        self.first = int(bool(self.image.info.get("default_image")))
        count, seconds = len(self.durations), sum(self.durations)
        whole = round(count / seconds)  # times are rounded to milliseconds, and so would be the rate
        self.rate = rational(whole if abs(count / max(1, whole) - seconds) <= 0.002 else count / seconds, str(path))

    def close(self) -> None:
        self.image.close()

    def info(self, exact: bool) -> VideoInfo:
        for _ in self.frames(0.0):
            if not exact:
                break
        seconds, kind = sum(self.durations), (self.image.format or "image").lower()
        return _image_info(self.path, self.image.size, len(self.durations), seconds, self.rate, kind, kind, [])

    def frames(self, start: float) -> Iterator[Shown]:
        begins = [0.0, *accumulate(self.durations)]
        for index, duration in enumerate(self.durations):
            try:
                self.image.seek(index + self.first)
                frame = _frame(rgb_of(self.image))
            except BROKEN:
                reason = cut_short(self.path)
                where = f"decoding stopped at {begins[index]:.3f} s after {index} frames"
                kind = "truncated" if reason else "damaged"
                raise InputError(f"{self.path}: {kind}: {where} ({reason or 'damaged data'})") from None
            yield Shown(begins[index], duration, ready(frame))


def _with_alpha(path: Path) -> io.BytesIO:
    """A webp whose header says that it has transparency: writers leave that out where frames cover a part only, and
    what no frame covers is transparent all the same (RFC 9649, 2.7.1.1)."""
    data = bytearray(read_bytes(path, LONGEST))
    if data[12:16] == b"VP8X" and len(data) > 20:
        data[20] |= 0x10
    return io.BytesIO(bytes(data))


def _frame(image: np.ndarray) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(image, "rgb24")


def not_readable(file: Path) -> str:
    """Why Pillow can't open an image."""
    if file.stat().st_size == 0:
        return "the file is empty (0 bytes)"
    if file.suffix.lower() == ".avif" and not features.check("avif"):
        return "AVIF needs Pillow 11.3 or newer (pip install -U pillow)"
    reason = unreadable(file)
    return reason if "not a video" not in reason else "not an image that can be read"


def _image_info(
    path: Path,
    size: tuple[int, int],
    count: int,
    seconds: float,
    rate: Fraction,
    container: str,
    codec: str,
    notes: Sequence[str],
) -> VideoInfo:
    width, height = size
    fps = mean_rate(count, seconds, rate)
    return VideoInfo(
        path, width, height, count, fps, seconds, container, codec, "rgb24", 0, 1.0, width, height, False, tuple(notes)
    )
