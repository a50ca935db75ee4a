"""Reads, probes and writes video files: with its parts, the only folder that touches a codec.

Frames on this side are `(H, W, 3)` uint8 RGB arrays and times are seconds since the first frame, strictly rising in the
order of display. Everything is read and written frame by frame, so memory does not grow with the length of a clip. What
a frame looks like is what a player shows: rotated upright, stretched to square pixels, transparent parts on white, YUV
converted by the matrix and range that the file states (BT.709 from 720 lines or 1280 columns up, BT.601 below, where it
states none), HDR (PQ and HLG) tone-mapped. Interlaced frames are given as stored unless `deinterlace` is asked for.

A file that cannot be read, or only in part, is an `InputError` of one line that names the file and the cause.

    names.py animations.py images.py    folders of images, stills, animated images (Pillow)
    opened.py decoding.py stream.py     files that libav reads: open, decode, seek
    times.py damage.py survey.py        when frames are shown, what was lost, how many there are
    wanted.py                           which of them are asked for
    picture.py colour.py deinterlace.py decoded pictures to upright RGB arrays
    masks.py write.py                   pictures that say what is given; encoding
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kinolab.errors import InputError
from kinolab.runtime.files import settled
from kinolab.runtime.paths import is_passed_over as is_passed_over
from kinolab.video.animations import durations_of
from kinolab.video.files import atomic, cut_short
from kinolab.video.images import open_folder, open_image
from kinolab.video.masks import Mask, is_image_mask, read_image_mask, read_video_mask
from kinolab.video.names import IMAGE_SUFFIXES, only_numbered_images
from kinolab.video.names import VIDEO_SUFFIXES as VIDEO_SUFFIXES
from kinolab.video.names import images_of as images_of
from kinolab.video.names import is_image as is_image
from kinolab.video.names import series as series
from kinolab.video.names import videos_of as videos_of
from kinolab.video.names import visible_files as visible_files
from kinolab.video.opened import Opened
from kinolab.video.picture import Fit, Resize, Size
from kinolab.video.sources import Source, VideoInfo, mean_rate, rational
from kinolab.video.stream import COMBED as COMBED
from kinolab.video.stream import MADE_WHOLE as MADE_WHOLE
from kinolab.video.stream import Stream
from kinolab.video.survey import VARIABLE as VARIABLE
from kinolab.video.times import is_regular as is_regular
from kinolab.video.times import missing_frames as missing_frames
from kinolab.video.times import past_of
from kinolab.video.wanted import Wanted
from kinolab.video.write import (
    PICTURE,
    check_ending,
    checked_frames,
    encode,
    write_images,
    write_picture,
)

if TYPE_CHECKING:
    import av
    import torch

IMAGE_FPS = 10.0
"""Frame rate of sources that carry none: folders of images, stills."""


@dataclass(frozen=True)
class Frame:
    """One frame: seconds since the clip's first frame, and an `(H, W, 3)` uint8 RGB image of its own."""

    time: float
    image: np.ndarray


@dataclass(frozen=True)
class Clip:
    """Frames `(T, H, W, 3)` uint8 RGB, their times `(T,)` in seconds since the file's first frame, and their mean rate:
    played at it they last as long as in the file.

    `notes` says what there is to know about them, a line each: interlaced, HDR, frames that are missing.
    """

    frames: np.ndarray
    fps: float
    times: np.ndarray
    notes: tuple[str, ...] = ()


def probe(path: Path | str, *, exact: bool = False, image_fps: float = IMAGE_FPS) -> VideoInfo:
    """Size, rate, length and codec of a video file, an animated image, a folder of images or a still.

    The first frame is decoded, so a file that passes can be read at least that far. Frames are counted by their packets
    in files up to 64 MiB, by decoding all of them with `exact`; of larger files the header is believed.

    Raises:
        InputError: missing, empty, not a video, truncated, no video stream, no frame.
    """
    path = Path(path)
    with closing(_open(path, _Opening(image_fps, threads=0 if exact else 1))) as source:
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
    deinterlace: bool = False,
    seek: bool = True,
    notes: list[str] | None = None,
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
        deinterlace: make whole pictures of frames that are marked as interlaced.
        seek: false reads all that comes before `start`, for files of which `seeks` is false.
        notes: a list to which is added what there is to know about the frames, a line each.

    Raises:
        InputError: bad arguments, bad files, colours that can't be converted, no frame in the range, images of
            different sizes, and, after the whole frames were given, a truncated or damaged file (with the time at which
            it breaks).
    """
    path = Path(path)
    wanted, fit = Wanted(start, end, every, fps), Fit(size, resize, threads, path)
    rational(image_fps, "image_fps")
    opening = _Opening(image_fps, threads, deinterlace, seek)
    return _iterate(path, opening, wanted, fit, [] if notes is None else notes)


def until_damage(frames: Iterator[Frame], lost: list[str]) -> Iterator[Frame]:
    """Frames up to the damage that ends them; the cause is added to `lost` and not raised.

    Raises:
        InputError: where not one frame comes.
    """
    given = False
    try:
        for frame in frames:
            given = True
            yield frame
    except InputError as error:
        if not given:
            raise
        lost.append(str(error))


def comment_of(path: Path | str) -> str:
    """The comment that a video file holds; "" where it holds none.

    Raises:
        InputError: for what is no video file.
    """
    path = _plain(Path(path))
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        return ""
    with closing(Opened(path, 1)) as opened:
        found = {key.lower(): text for key, text in opened.container.metadata.items()}
    return found.get("comment", "")


def is_animated(path: Path) -> bool:
    """Whether a webp, PNG or AVIF file holds several pictures, by its container alone."""
    return path.suffix.lower() in IMAGE_SUFFIXES and bool(durations_of(path))


def seeks(path: Path | str) -> bool:
    """Whether seeks are exact in a file that this process has read to its end.

    They aren't where frames bear no times, or such that don't rise: then they have to be counted from the beginning.
    """
    path = Path(path)
    return not path.is_file() or not past_of(path).counted


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
    deinterlace: bool = False,
) -> Clip:
    """All frames of `iter_frames` with the same arguments, in one array."""
    path = Path(path)
    rational(image_fps, "image_fps")
    images: list[Any] = []
    times: list[float] = []
    wanted, fit, ends = Wanted(start, end, every, fps), Fit(size, resize, threads, path), 0.0
    with closing(_open(path, _Opening(image_fps, threads, deinterlace))) as source:
        for frame, until in _pick(source, path, wanted, fit):
            images.append(frame.image)
            times.append(frame.time)
            ends = until
        nominal, notes = source.rate / every, tuple(source.notes())
    stacked = np.empty((len(images), *images[0].shape), np.uint8)
    for index in range(len(images)):  # free each frame as it is copied: the peak stays near one clip
        stacked[index], images[index] = images[index], None
    # The last frame counts as long as those before it, of which some may have been left out.
    seconds = (ends - times[0]) if every == 1 else (times[-1] - times[0]) * len(times) / max(1, len(times) - 1)
    rate = fps / every if fps is not None else mean_rate(len(times), seconds, nominal)
    return Clip(stacked, rate, np.array(times), notes)


def read_mask(
    path: Path | str, size: tuple[int, int], *, resize: Resize = "crop", start: float = 0.0, fps: float | None = None
) -> Mask:
    """What a mask marks as generated, at (height, width): of an image, a folder of images, or a video.

    A video's frames are those shown from `start` seconds on, at `fps`; images have no times. Masks of 0 and 1,
    palettes, flat colours and transparency are taken as what they are, and `Mask.rule` says how.

    Raises:
        InputError: for files that can't be read.
    """
    path = _plain(Path(path))
    if is_image_mask(path):
        return read_image_mask(path, size, resize)
    if probe(path).frames == 1:
        start, fps = 0.0, None
    return read_video_mask(lambda: (f.image for f in iter_frames(path, start=start, fps=fps)), size, resize, path)


def check_folder(path: Path) -> None:
    """Refuse to replace what is there by a folder of images, unless that is what it is.

    Raises:
        InputError: for a folder that holds anything else, or a file.
    """
    if path.exists() and not only_numbered_images(path):
        raise InputError(f"{path}: exists and holds something other than numbered images; choose another name")


def write(
    path: Path | str,
    frames: Iterable[np.ndarray] | np.ndarray,
    fps: float,
    *,
    quality: int = 85,
    lossless: bool = False,
    growing: bool = False,
    comment: str = "",
) -> None:
    """Write `(H, W, 3)` uint8 RGB frames (an array `(T, H, W, 3)` or any iterable, taken one at a time).

    The ending of `path` chooses the format: .mp4, .mov, .mkv, .avi are H.264 4:2:0, which browsers play; .webm is VP9;
    .gif has a palette per frame; .webp is animated; .png takes a single frame; no ending makes a folder of PNG images.
    Colours are tagged BT.709, limited range. H.264 4:2:0 has no odd sizes: there the last row or column is repeated
    once, so that 65 x 47 reads back as 66 x 48 with the picture in the upper left; every other format keeps odd sizes.
    A webp merges equal frames that follow each other into one that is shown longer (`read(..., fps=)` repeats them).

    The file appears under its name only when it is whole: an error, also one raised by `frames`, leaves nothing
    behind and an older file untouched. Missing parent folders are made. The same frames give the same bytes.

    Args:
        fps: frames per second (29.97 and the like mean 30000/1001). A gif shows at most 50.
        quality: 1 to 100; H.264 uses crf `8 + 0.4 (100 - quality)`, VP9 `12 + 0.45 (100 - quality)`, webp its own
            scale. Has no effect on gif, PNG and lossless files.
        comment: a text that the file holds beside its frames (.mp4, .mov, .mkv, .webm; others go without).
        lossless: exact RGB values: FFV1 in .mkv or .avi, lossless .webp; a folder of PNG images always is.
        growing: written in place, frame by frame, so that it can be watched meanwhile (.mp4 and .mov, in fragments of a
            second, .mkv, .webm, folders); for who gives it its name at the end.

    Raises:
        InputError: no frames, frames of different sizes or not uint8 RGB, an ending that is not known, a lossless
            format that does not exist.
    """
    path = Path(path)
    rate = rational(fps, f"{path}: fps")
    suffix = path.suffix.lower()
    check_ending(path)
    if not 1 <= quality <= 100:
        raise InputError(f"{path}: quality is from 1 to 100, got {quality}")
    if lossless and suffix not in {".mkv", ".avi", ".webp", PICTURE, ""}:
        raise InputError(f"{path}: lossless needs .mkv, .avi, .webp, .png or a folder, not {suffix}")
    if suffix == ".gif" and rate > 50:
        raise InputError(f"{path}: a gif shows at most 50 frames per second, got {fps:g}")
    if not suffix:
        check_folder(path)
    checked = checked_frames(path, frames)
    first = next(checked, None)
    if first is None:
        raise InputError(f"{path}: no frames to write")
    with nullcontext(path) if growing else atomic(path) as temporary:
        if suffix == PICTURE:
            if next(checked, None) is not None:
                check_ending(path, 0)
            write_picture(temporary, first)
        elif suffix:
            encode(temporary, chain([first], checked), first.shape, rate, quality, lossless, growing, comment)
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


@dataclass(frozen=True)
class _Opening:
    """How a file is opened (see `iter_frames`)."""

    image_fps: float
    threads: int
    deinterlace: bool = False
    seek: bool = True


def _plain(path: Path) -> Path:
    """Where a file or folder stands; raises InputError where there is none, or what is waited for, as a pipe is."""
    path = settled(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if not path.is_file() and not path.is_dir():
        raise InputError(f"{path}: neither a file nor a folder (a pipe or a device); expected a file")
    return path


def _open(path: Path, how: _Opening) -> Source:
    path = _plain(path)
    if path.is_dir():
        return open_folder(path, how.image_fps)
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes)")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return open_image(path, how.image_fps)
    return Stream(path, how.threads, how.deinterlace, how.seek)


def _iterate(path: Path, how: _Opening, wanted: Wanted, fit: Fit, notes: list[str]) -> Iterator[Frame]:
    with closing(_open(path, how)) as source:
        try:
            for frame, _ in _pick(source, path, wanted, fit):
                yield frame
        finally:
            notes += source.notes()


def _pick(source: Source, path: Path, wanted: Wanted, fit: Fit) -> Iterator[tuple[Frame, float]]:
    """The wanted frames of a source, as pictures, and until when each is shown."""
    last: Callable[[], av.VideoFrame] | None = None
    image = np.empty(0, np.uint8)
    start, end, slack = wanted.start, wanted.end, source.slack
    for index, item in enumerate(wanted.of(source)):
        if end is not None and item.time >= end - slack:
            break
        if index % wanted.every:
            continue
        image = image.copy() if item.load is last else fit(item.load(), source.pixel_aspect, source.orientation)
        last = item.load
        yield Frame(item.time, image), source.end_of(item)
    if last is None:
        until = "its end" if end is None else f"{end:g} s"
        raise InputError(f"{path}: no frame between {start:g} s and {until}")
