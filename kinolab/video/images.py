"""Sources of frames that Pillow reads: folders of numbered images, stills and animated webp (part of `video.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

from PIL import Image, ImageOps

from kinolab.errors import InputError
from kinolab.video.codec import av
from kinolab.video.files import cut_short, unreadable, webp_durations
from kinolab.video.picture import rgb_of
from kinolab.video.sources import Shown, Source, VideoInfo, rational, ready

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


class Images(Source):
    """Numbered images of one size, or a single one, shown at a given rate."""

    def __init__(self, path: Path, files: list[Path], fps: float) -> None:
        self.path, self.files, self.rate = path, files, rational(fps, "image_fps")
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
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            reason = "the file is empty (0 bytes)" if file.stat().st_size == 0 else "not an image that can be read"
            raise InputError(f"{file}: {reason}") from None

    def info(self, exact: bool) -> VideoInfo:
        count = len(self.files)
        suffix = self.files[0].suffix.lower().lstrip(".")
        self._load(self.files[0])
        return _image_info(self.path, self.size, count, count / float(self.rate), self.rate, "images", suffix)

    def frames(self, start: float) -> Iterator[Shown]:
        period = 1 / float(self.rate)
        for index, file in enumerate(self.files):
            yield Shown(index / float(self.rate), period, partial(self._load, file))

    def _load(self, file: Path) -> av.VideoFrame:
        try:
            with Image.open(file) as image:
                upright = ImageOps.exif_transpose(image)
                return av.VideoFrame.from_ndarray(rgb_of(upright), "rgb24")
        except (OSError, ValueError, SyntaxError):
            raise InputError(f"{file}: a damaged or truncated image") from None


class Webp(Source):
    """A webp file, animated or not: libav cannot decode animations, Pillow can."""

    slack = 0.001  # times are cut to milliseconds

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self.durations = webp_durations(path)
        try:
            self.image = Image.open(path, formats=["WEBP"])
        except PermissionError:
            raise
        except (OSError, ValueError, SyntaxError):
            raise InputError(f"{path}: {unreadable(path)}") from None
        self.durations = self.durations or [1 / fps]
        count, seconds = len(self.durations), sum(self.durations)
        whole = round(count / seconds)  # times are rounded to milliseconds, and so would be the rate
        self.rate = rational(whole if abs(count / max(1, whole) - seconds) <= 0.002 else count / seconds, str(path))

    def close(self) -> None:
        self.image.close()

    def info(self, exact: bool) -> VideoInfo:
        next(self.frames(0.0))
        seconds = sum(self.durations)
        return _image_info(self.path, self.image.size, len(self.durations), seconds, self.rate, "webp", "webp")

    def frames(self, start: float) -> Iterator[Shown]:
        time = 0.0
        for index, duration in enumerate(self.durations):
            try:
                self.image.seek(index)
                frame = av.VideoFrame.from_ndarray(rgb_of(self.image), "rgb24")
            except (OSError, ValueError, EOFError):
                reason = cut_short(self.path) or "damaged data"
                raise InputError(
                    f"{self.path}: truncated: decoding stopped at {time:.3f} s after {index} frames ({reason})"
                ) from None
            yield Shown(time, duration, ready(frame))
            time += duration


def _image_info(
    path: Path, size: tuple[int, int], count: int, seconds: float, rate: Fraction, container: str, codec: str
) -> VideoInfo:
    width, height = size
    return VideoInfo(
        path, width, height, count, float(rate), seconds, container, codec, "rgb24", 0, 1.0, width, height, False
    )
