"""Pictures that say what is given and what is generated, in whatever way that is said (part of `kinolab.video`).

A mask may be white on black, 0 and 1, labels with 0 for the background, a palette or flat colours on black, or lie in
the transparency of a picture. Each is taken as what it is, and `Mask.rule` says in words how it was taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from kinolab.errors import InputError
from kinolab.video.animations import durations_of
from kinolab.video.codec import av
from kinolab.video.images import BROKEN, not_readable
from kinolab.video.names import IMAGE_SUFFIXES, images_of, series
from kinolab.video.picture import Fit, Orientation, Resize

LABELS = 32
"""Grey masks whose brightest value is below this are labels: as black and white, one so dark would say nothing."""
_FLAT = 64  # colours at most of a picture that is drawn in flat ones
_ALIKE = 8  # levels that colours of one paint differ by at most


@dataclass(frozen=True)
class Mask:
    """What is generated, (T, H, W) bool, and how the pictures were read, in words."""

    generated: np.ndarray
    rule: str


@dataclass
class _Facts:
    """What all pictures of a mask have in common decides how each is read."""

    greys: set[float] = field(default_factory=set)
    top: float = 255.0  # what counts as white
    colours: set[tuple[int, ...]] = field(default_factory=set)
    painted: set[tuple[int, ...]] = field(default_factory=set)  # colours of what is not transparent
    palette: bool = False
    alpha: bool = False
    grey: bool = True


def read_image_mask(path: Path, size: tuple[int, int], resize: Resize) -> Mask:
    """The mask of an image, or one for each of a folder's images (in natural order), at (height, width).

    Raises:
        InputError: where an image can't be read, or several differ in size.
    """
    if path.is_dir():
        names = images_of(path)
        found = series(names)
        files = [path / name for name in (found.names if found else names)]
        if not files:
            raise InputError(f"{path}: a folder without images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    else:
        files = [path]
    facts = _Facts()
    for file in files:
        _look(_opened(file), facts)
    rule = _rule_for(facts)
    marked = [_marked(_opened(file), facts) for file in files]
    odd = next((k for k, picture in enumerate(marked) if picture.shape != marked[0].shape), None)
    if odd is not None:
        raise InputError(f"{files[odd]}: another size than {files[0].name}")
    return Mask(_fitted(marked, size, resize, path), rule)


def read_video_mask(
    frames: Callable[[], Iterable[np.ndarray]], size: tuple[int, int], resize: Resize, path: Path
) -> Mask:
    """The mask in the frames (H, W, 3) of a video or an animated image, which are asked for twice."""
    facts = _Facts()
    for frame in frames():
        _look(Image.fromarray(frame), facts)
    marked = [_marked(Image.fromarray(frame), facts) for frame in frames()]
    return Mask(_fitted(marked, size, resize, path), _rule_for(facts))


def is_image_mask(path: Path) -> bool:
    """Whether a mask is one picture, or a folder with one for each frame: nothing that has times of its own."""
    return path.is_dir() or (path.suffix.lower() in IMAGE_SUFFIXES and not durations_of(path))


def _opened(file: Path) -> Image.Image:
    try:
        with Image.open(file) as image:
            palette = image.mode == "P"
            upright = ImageOps.exif_transpose(image)
            upright.load()
            if palette and "transparency" in image.info:
                return upright.convert("RGBA")
            return upright
    except PermissionError:
        raise
    except Image.DecompressionBombError:
        raise InputError(f"{file}: an image of more pixels than can be read; shrink it") from None
    except BROKEN:
        raise InputError(f"{file}: {not_readable(file)}") from None


def _look(image: Image.Image, facts: _Facts) -> None:
    """Add what an image shows to what is known of all."""
    if image.mode == "P":
        used = _palette(image)[np.unique(np.asarray(image))]
        facts.palette = facts.palette or bool((used != used[:, :1]).any())
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        rgba = np.asarray(image.convert("RGBA"))
        solid = rgba[..., 3] >= 128
        if not solid.all():
            facts.alpha = True
            facts.painted |= _some_colours(rgba[..., :3][solid])
            return
    grey = _grey(image)
    if grey is None:
        facts.grey = False
        facts.colours |= _some_colours(np.asarray(image.convert("RGB")).reshape(-1, 3))
        return
    facts.top = max(facts.top, _white(image, grey))
    if len(facts.greys) <= _FLAT:
        facts.greys |= set(np.unique(grey)[: _FLAT + 1].tolist()) | {float(grey.max())}
    else:
        facts.greys.add(float(grey.max()))


def _marked(image: Image.Image, facts: _Facts) -> np.ndarray:
    """What an image marks as generated, (H, W) bool."""
    if facts.palette and image.mode == "P":
        return np.asarray(np.asarray(image) != _background(image))
    if facts.alpha:
        rgba = np.asarray(image.convert("RGBA"))
        solid = rgba[..., 3] >= 128
        if _paints_white(facts.painted):
            return solid & (rgba[..., :3].min(axis=2) >= 128)
        return solid if _one_paint(facts.painted) else ~solid
    if _labels_in_colour(facts):
        return np.asarray(image.convert("RGB")).max(axis=2) > 0
    grey = _grey(image)
    if not facts.grey or grey is None:
        return np.asarray(image.convert("RGB")).astype(np.float32).mean(axis=2) > 127.5
    return grey > _threshold(facts)


def _rule_for(facts: _Facts) -> str:
    if facts.palette:
        return "a palette: its background (index 0, or black) is given, all others are generated"
    if facts.alpha:
        if _paints_white(facts.painted):
            return "white paint on transparent: white is generated, all else given"
        if _one_paint(facts.painted):
            return "paint on transparent: what is painted is generated, transparent parts given"
        return "a picture with transparent parts: these are generated"
    if _labels_in_colour(facts):
        return "flat colours on black: black is given, all others are generated"
    if not facts.grey or len(facts.greys) < 2:
        return "brighter than half is generated"
    low, high = min(facts.greys), max(facts.greys)
    if len(facts.greys) == 2:
        return f"two values: {low:g} is given, {high:g} generated"
    if high < LABELS:
        return f"labels up to {high:g}: 0 is given, all others are generated"
    return "brighter than half is generated"


def _threshold(facts: _Facts) -> float:
    """Grey above which a picture is generated."""
    high = max(facts.greys)
    if len(facts.greys) == 2:
        return min(facts.greys)
    return 0.0 if high < LABELS and high == int(high) else facts.top / 2


def _labels_in_colour(facts: _Facts) -> bool:
    """Whether pictures are drawn in flat colours on black, and not in white, which would be a mask as any other."""
    colours = facts.colours
    return not facts.grey and len(colours) <= _FLAT and (0, 0, 0) in colours and (255, 255, 255) not in colours


def _paints_white(painted: set[tuple[int, ...]]) -> bool:
    """Whether what isn't transparent is black and white, some of it white."""
    white = [min(colour) >= 255 - _ALIKE for colour in painted]
    return any(white) and all(w or max(colour) <= _ALIKE for w, colour in zip(white, painted, strict=True))


def _one_paint(painted: set[tuple[int, ...]]) -> bool:
    """Whether what isn't transparent has one colour."""
    if not painted:
        return False
    values = np.array(sorted(painted))
    return bool((values.max(axis=0) - values.min(axis=0) <= _ALIKE).all())


def _palette(image: Image.Image) -> np.ndarray:
    """The colours of a palette, (256, 3)."""
    colours = np.zeros((256, 3), np.uint8)
    stored = np.array(image.convert("P").getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    colours[: len(stored)] = stored
    return colours


def _background(image: Image.Image) -> int:
    """The index of a palette that means background: 0, unless black stands elsewhere and not there."""
    black = np.flatnonzero(~_palette(image).any(axis=1))
    return 0 if not len(black) or 0 in black else int(black[0])


def _some_colours(pixels: np.ndarray) -> set[tuple[int, ...]]:
    """The distinct colours of pixels (N, 3), or some more than `_FLAT` of them."""
    codes = np.unique(pixels.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32))[: _FLAT + 1]
    return {(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in codes}


def _grey(image: Image.Image) -> np.ndarray | None:
    """The values of a grey image as they are stored, (H, W); None for one that has colours."""
    if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16"):
        return np.nan_to_num(np.asarray(image).astype(np.float32))
    if image.mode in ("LA", "La"):
        return np.asarray(image.convert("LA"))[..., 0].astype(np.float32)
    rgb = np.asarray(image.convert("RGB"))
    return rgb[..., 0].astype(np.float32) if (rgb == rgb[..., :1]).all() else None


def _white(image: Image.Image, grey: np.ndarray) -> float:
    """The value that means white."""
    if image.mode == "1":
        return 1.0
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        most = float(grey.max())
        return 1.0 if image.mode == "F" and most <= 1 else 65535.0 if most > 255 else 255.0
    return 255.0


def _fitted(marked: Sequence[np.ndarray], size: tuple[int, int], resize: Resize, path: Path) -> np.ndarray:
    """Masks (H, W) at another size, fitted as the pictures of the clip are: (T, height, width) bool."""
    fit = Fit(size, resize, 1, path)
    pictures = (np.repeat((picture * np.uint8(255))[..., None], 3, axis=2) for picture in marked)
    try:
        frames: Iterator[av.VideoFrame] = (av.VideoFrame.from_ndarray(picture, "rgb24") for picture in pictures)
        return np.stack([fit(frame, Fraction(1), Orientation())[..., 0] > 127 for frame in frames])
    except av.error.FFmpegError as error:  # of sides that no picture may have
        height, width = marked[0].shape
        raise InputError(f"{path}: a mask of {width}x{height} pixels can't be scaled: {error.strerror}") from None
