"""Reads, probes and writes video files: with its parts `_video_*.py`, the only file that touches a codec.

Frames on this side are `(H, W, 3)` uint8 RGB arrays and times are seconds since the first frame. Everything is read
and written frame by frame, so memory does not grow with the length of a clip. What a frame looks like is what a
player shows: rotated upright, stretched to square pixels, transparent parts on white, YUV converted by the matrix and
range that the file states (BT.709 from 720 lines or 1280 columns up, BT.601 below, where it states none).

A file that cannot be read, or only in part, is an `InputError` of one line that names the file and the cause.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kinolab.errors import InputError
from kinolab.video.files import atomic, cut_short, numbered_images, only_numbered_images
from kinolab.video.images import IMAGE_SUFFIXES, Images, Webp
from kinolab.video.picture import Fit, Resize, Size
from kinolab.video.sources import Shown, Source, Stream, VideoInfo, rational
from kinolab.video.write import WRITE_SUFFIXES, checked_frames, encode, write_images

if TYPE_CHECKING:
    import av
    import torch

VIDEO_SUFFIXES = frozenset(WRITE_SUFFIXES) | {".m4v", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv", ".flv", ".ogv"}
"""Endings that `probe`, `iter_frames` and `read` take for video files (a folder of images and a still work too)."""
IMAGE_FPS = 10.0
"""Frame rate of sources that carry none: folders of images, stills."""


@dataclass(frozen=True)
class Frame:
    """One frame: seconds since the clip's first frame, and an `(H, W, 3)` uint8 RGB image of its own."""

    time: float
    image: np.ndarray


@dataclass(frozen=True)
class Clip:
    """Frames `(T, H, W, 3)` uint8 RGB, their rate, and their times `(T,)` in seconds since the file's first frame."""

    frames: np.ndarray
    fps: float
    times: np.ndarray


def probe(path: Path | str, *, exact: bool = False, image_fps: float = IMAGE_FPS) -> VideoInfo:
    """Size, rate, length and codec of a video file, an animated image, a folder of images or a still.

    The first frame is decoded, so a file that passes can be read at least that far. With `exact`, all packets are read
    (not decoded) to count frames and measure the duration where the header is silent or wrong.

    Raises:
        InputError: missing, empty, not a video, truncated, no video stream, no frame.
    """
    path = Path(path)
    with closing(_open(path, image_fps, threads=1)) as source:
        cut = cut_short(path) if path.is_file() else None
        if cut:
            raise InputError(f"{path}: truncated: {cut}")
        return source.info(exact)


def iter_frames(
    path: Path | str,
    *,
    start: float = 0.0,
    end: float | None = None,
    every: int = 1,
    fps: float | None = None,
    size: Size = None,
    resize: Resize = "crop",
    image_fps: float = IMAGE_FPS,
    threads: int = 0,
) -> Iterator[Frame]:
    """Frames shown in `[start, end)` seconds, one at a time, in memory that does not grow with the length.

    Args:
        path: a video file, an animated image, a folder of numbered images (natural order) or a still.
        start: seconds since the first frame. Seeks are exact: the first frame is the one that a read from the
            beginning would give.
        end: seconds; None reads to the end.
        every: keep the 1st, (1+n)th, (1+2n)th ... of the frames.
        fps: target rate: for each time `start + k / fps` the frame shown at that moment, so frames are repeated or
            left out; `Frame.time` is then that moment. None gives each stored frame once, at its own time.
        size: `(height, width)`, or the length of the shorter side. None keeps the size of the first frame.
        resize: for `(height, width)`: "crop" fills it and cuts the rest evenly, "pad" fits inside with black bars,
            "stretch" ignores the aspect.
        image_fps: the rate of sources that have none of their own.
        threads: decoder threads; 0 takes the processor's cores, 8 at most. In a pool of loader processes use 1.

    Raises:
        InputError: bad arguments, bad files, no frame in the range, images of different sizes, and, after the whole
            frames were given, a truncated or damaged file (with the time at which it breaks).
    """
    path = Path(path)
    _check_range(start, end, every, fps, image_fps)
    return _iterate(path, start, end, every, fps, Fit(size, resize, threads), image_fps, threads)


def read(
    path: Path | str,
    *,
    start: float = 0.0,
    end: float | None = None,
    every: int = 1,
    fps: float | None = None,
    size: Size = None,
    resize: Resize = "crop",
    image_fps: float = IMAGE_FPS,
    threads: int = 0,
) -> Clip:
    """All frames of `iter_frames` with the same arguments, in one array; `Clip.fps` is the rate they play at."""
    path = Path(path)
    _check_range(start, end, every, fps, image_fps)
    images: list[Any] = []
    times: list[float] = []
    with closing(_open(path, image_fps, threads)) as source:
        for frame in _pick(source, path, start, end, every, fps, Fit(size, resize, threads)):
            images.append(frame.image)
            times.append(frame.time)
        rate = float(source.rate) if fps is None else fps
    stacked = np.empty((len(images), *images[0].shape), np.uint8)
    for index in range(len(images)):  # free each frame as it is copied: the peak stays near one clip
        stacked[index], images[index] = images[index], None
    return Clip(stacked, rate / every, np.array(times))


def write(
    path: Path | str,
    frames: Iterable[np.ndarray] | np.ndarray,
    fps: float,
    *,
    quality: int = 85,
    lossless: bool = False,
) -> None:
    """Write `(H, W, 3)` uint8 RGB frames (an array `(T, H, W, 3)` or any iterable, taken one at a time).

    The ending of `path` chooses the format: .mp4, .mov, .mkv, .avi are H.264 4:2:0, which browsers play; .webm is VP9;
    .gif has a palette per frame; .webp is animated; no ending makes a folder of PNG images. Colours are tagged BT.709,
    limited range. H.264 4:2:0 has no odd sizes: there the last row or column is repeated once, so that 65 x 47 reads
    back as 66 x 48 with the picture in the upper left; every other format keeps odd sizes.
    A webp merges equal frames that follow each other into one that is shown longer (`read(..., fps=)` repeats them).

    The file appears under its name only when it is whole: an error, also one raised by `frames`, leaves nothing
    behind and an older file untouched. Missing parent folders are made. The same frames give the same bytes.

    Args:
        fps: frames per second (29.97 and the like mean 30000/1001). A gif shows at most 50.
        quality: 1 to 100; H.264 uses crf `8 + 0.4 (100 - quality)`, VP9 `12 + 0.45 (100 - quality)`, webp its own
            scale. Has no effect on gif, PNG and lossless files.
        lossless: exact RGB values: FFV1 in .mkv or .avi, lossless .webp; a folder of PNG images always is.

    Raises:
        InputError: no frames, frames of different sizes or not uint8 RGB, an ending that is not known, a lossless
            format that does not exist.
    """
    path = Path(path)
    rate = rational(fps, f"{path}: fps")
    suffix = path.suffix.lower()
    if suffix and suffix not in WRITE_SUFFIXES:
        endings = ", ".join(WRITE_SUFFIXES)
        raise InputError(f"{path}: cannot write {suffix!r}; expected {endings}, or no ending for a folder of PNG files")
    if not 1 <= quality <= 100:
        raise InputError(f"{path}: quality is from 1 to 100, got {quality}")
    if lossless and suffix not in {".mkv", ".avi", ".webp", ""}:
        raise InputError(f"{path}: lossless needs .mkv, .avi, .webp or a folder, not {suffix}")
    if suffix == ".gif" and rate > 50:
        raise InputError(f"{path}: a gif shows at most 50 frames per second, got {fps:g}")
    if not suffix and path.exists() and not only_numbered_images(path):
        raise InputError(f"{path}: exists and holds something other than numbered images; choose another name")
    checked = checked_frames(path, frames)
    first = next(checked, None)
    if first is None:
        raise InputError(f"{path}: no frames to write")
    with atomic(path) as temporary:
        if suffix:
            encode(temporary, chain([first], checked), first.shape, rate, quality, lossless)
        else:
            write_images(temporary, chain([first], checked))


def to_tensor(frames: np.ndarray) -> torch.Tensor:
    """Frames `(T, H, W, 3)` uint8 to video `(3, T, H, W)` float32 in [-1, 1]; a leading batch axis stays first."""
    import torch

    if frames.dtype != np.uint8 or frames.ndim not in (4, 5) or frames.shape[-1] != 3:
        raise InputError(f"expected uint8 frames (T, H, W, 3), got {frames.dtype} {frames.shape}")
    tensor = torch.from_numpy(np.require(frames, requirements=["C", "W"])).movedim(-1, -4).contiguous()
    return tensor.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(video: torch.Tensor) -> np.ndarray:
    """Video `(3, T, H, W)` in [-1, 1] to frames `(T, H, W, 3)` uint8, clamped and rounded; a batch axis stays first.

    Raises:
        InputError: wrong layout, or values that are not finite (they would otherwise become black pixels).
    """
    import torch

    if video.ndim not in (4, 5) or video.shape[-4] != 3 or not video.is_floating_point():
        raise InputError(f"expected float video (3, T, H, W), got {video.dtype} {tuple(video.shape)}")
    values = video.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(values).all()):
        raise InputError("the video holds values that are not finite")
    return ((values + 1.0) * 127.5).round_().clamp_(0, 255).to(torch.uint8).movedim(-4, -1).contiguous().numpy()


def _open(path: Path, image_fps: float, threads: int) -> Source:
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_dir():
        return Images(path, numbered_images(path, IMAGE_SUFFIXES), image_fps)
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes)")
    if path.suffix.lower() == ".webp":
        return Webp(path, image_fps)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return Images(path, [path], image_fps)
    return Stream(path, threads)


def _iterate(
    path: Path,
    start: float,
    end: float | None,
    every: int,
    fps: float | None,
    fit: Fit,
    image_fps: float,
    threads: int,
) -> Iterator[Frame]:
    with closing(_open(path, image_fps, threads)) as source:
        yield from _pick(source, path, start, end, every, fps, fit)


def _pick(
    source: Source, path: Path, start: float, end: float | None, every: int, fps: float | None, fit: Fit
) -> Iterator[Frame]:
    """The wanted frames of a source, as pictures."""
    last: Callable[[], av.VideoFrame] | None = None
    image = np.empty(0, np.uint8)
    shown = source.frames(start)
    picked = _stored(shown, start, source.slack) if fps is None else _sampled(shown, start, fps, source.slack)
    for index, (time, load) in enumerate(picked):
        if end is not None and time >= end - source.slack:
            break
        if index % every:
            continue
        image = image.copy() if load is last else fit(load(), source.pixel_aspect, source.orientation)
        last = load
        yield Frame(time, image)
    if last is None:
        until = "its end" if end is None else f"{end:g} s"
        raise InputError(f"{path}: no frame between {start:g} s and {until}")


def _stored(shown: Iterable[Shown], start: float, slack: float) -> Iterator[tuple[float, Callable[[], av.VideoFrame]]]:
    """The frames that begin at or after `start`."""
    return ((item.time, item.load) for item in shown if item.time >= start - slack)


def _sampled(
    shown: Iterable[Shown], start: float, fps: float, slack: float
) -> Iterator[tuple[float, Callable[[], av.VideoFrame]]]:
    """For each time `start + k / fps` until the last frame ends, the last frame that began by then."""
    index, current = 0, None
    for item in shown:
        while current is not None and start + index / fps < item.time - slack:
            yield start + index / fps, current.load
            index += 1
        current = item
    while current is not None and start + index / fps < current.time + current.duration - slack:
        yield start + index / fps, current.load
        index += 1


def _check_range(start: float, end: float | None, every: int, fps: float | None, image_fps: float) -> None:
    if not (math.isfinite(start) and start >= 0):
        raise InputError(f"start: expected seconds from 0 on, got {start}")
    if end is not None and not end > start:
        raise InputError(f"end: expected more than start ({start:g} s), got {end}")
    if every < 1:
        raise InputError(f"every: expected a whole number from 1 on, got {every}")
    rational(image_fps, "image_fps")
    if fps is not None:
        rational(fps, "fps")
