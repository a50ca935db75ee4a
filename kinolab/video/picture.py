"""Decoded pictures to upright RGB arrays of the wanted size (part of `video.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from kinolab.errors import InputError
from kinolab.video import colour
from kinolab.video.codec import Interpolation, VideoReformatter, av

Resize = Literal["crop", "pad", "stretch"]
Size = int | tuple[int, int] | None


def accurate() -> int:
    """How pictures are scaled. Against the quick path it costs about 7 ms for a 1280x720 frame and gains 2 to 3 dB on a
    4:2:0 round trip."""
    return Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class Fit:
    """Turns decoded frames into upright RGB arrays of the wanted size, scaling and converting in one step.

    Raises:
        InputError: for a size that is none, and (naming `path`) for frames whose colours can't be converted.
    """

    def __init__(self, size: Size, resize: Resize, threads: int, path: Path) -> None:
        if resize not in ("crop", "pad", "stretch"):
            raise InputError(f"resize: expected crop, pad or stretch, got {resize!r}")
        sides = (size,) if isinstance(size, int) else tuple(size or ())
        if size is not None and (len(sides) not in (1, 2) or any(not isinstance(s, int) or s < 1 for s in sides)):
            raise InputError(f"size: expected (height, width) or the shorter side in pixels, got {size!r}")
        self.size: Size = sides[0] if len(sides) == 1 else (sides[0], sides[1]) if sides else None
        self.resize, self.threads, self.path = resize, threads, path
        self.native: tuple[int, int] | None = None
        self.reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame, pixel_aspect: Fraction, orientation: Orientation) -> np.ndarray:
        shown = shown_size(frame.width, frame.height, pixel_aspect, orientation)
        self.native = self.native or shown  # a stream may change its size: the first frame's counts
        height, width = self._scaled(*shown)
        if orientation.transposed:
            height, width = width, height
        image = orientation.apply(self._to_rgb(frame, height, width))
        if isinstance(self.size, tuple):
            image = _pad(image, *self.size) if self.resize == "pad" else _crop(image, *self.size)
        return np.ascontiguousarray(image)

    def _scaled(self, height: int, width: int) -> tuple[int, int]:
        """Size of the whole picture, upright, before it is cropped or padded."""
        assert self.native is not None
        if self.size is None:
            return self.native
        if isinstance(self.size, int):
            factor = self.size / min(height, width)
            return max(self.size, round(height * factor)), max(self.size, round(width * factor))
        to_height, to_width = self.size
        if self.resize == "stretch":
            return to_height, to_width
        if self.resize == "pad":
            factor = min(to_height / height, to_width / width)
            return max(1, min(to_height, round(height * factor))), max(1, min(to_width, round(width * factor)))
        factor = max(to_height / height, to_width / width)
        return max(to_height, round(height * factor)), max(to_width, round(width * factor))

    def _to_rgb(self, frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
        kind = frame.format
        transparent = kind.has_palette or any(component.is_alpha for component in kind.components)
        hdr = colour.is_hdr(frame)
        matrix = colour.matrix(frame, self.path)
        try:
            converted = self.reformatter.reformat(
                frame,
                width=width,
                height=height,
                format="rgb48le" if hdr else "rgba" if transparent else "rgb24",
                src_colorspace=matrix,
                interpolation=accurate(),
                threads=self.threads if frame.width * frame.height > 500_000 else 1,
            )
        except av.error.FFmpegError as error:  # of damaged headers: sizes or formats that no picture has
            size = f"{frame.width}x{frame.height} {kind.name}"
            raise InputError(f"{self.path}: its pictures ({size}) can't be converted: {error.strerror}") from None
        image = np.asarray(converted.to_ndarray())
        if hdr:
            return colour.tone_mapped(image, int(frame.color_trc), int(frame.color_primaries))
        return on_white(image) if transparent else image


def shown_size(width: int, height: int, aspect: Fraction, orientation: Orientation) -> tuple[int, int]:
    """(height, width) upright and with square pixels; one side is stretched, none shrunk."""
    if aspect > 1:
        width = round(width * aspect)
    elif aspect < 1:
        height = round(height / aspect)
    return (width, height) if orientation.transposed else (height, width)


def _crop(image: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _pad(image: np.ndarray, height: int, width: int) -> np.ndarray:
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


def on_white(rgba: np.ndarray) -> np.ndarray:
    colour, alpha = rgba[..., :3], rgba[..., 3:]
    if alpha.min() == 255:
        return colour
    weight = alpha.astype(np.uint16)
    return ((colour * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)


@dataclass(frozen=True)
class Orientation:
    """How a stored picture becomes upright: transpose first, then mirror rows and columns."""

    transposed: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Orientation:
        """From the display matrix: x' = a x + c y, y' = b x + d y, for rows (a, b, u), (c, d, v), (x, y, w)."""
        attached: Any = frame.side_data
        for data in attached:
            if data.type.name == "DISPLAYMATRIX":
                (a, b, _), (c, d, _), _ = np.frombuffer(bytes(data), np.int32).reshape(3, 3).tolist()
                transposed = abs(b) + abs(c) > abs(a) + abs(d)
                return cls(transposed, (b if transposed else d) < 0, (c if transposed else a) < 0)
        return cls()

    @property
    def degrees(self) -> int:
        """Counter-clockwise turn; a mirrored picture counts as turned after its columns are mirrored back."""
        return {(False, False): 0, (False, True): 180, (True, True): 90, (True, False): 270}[
            (self.transposed, self.flip_rows)
        ]

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The upright view of an `(H, W, 3)` image."""
        image = image.swapaxes(0, 1) if self.transposed else image
        return image[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def rgb_of(image: Image.Image) -> np.ndarray:
    """An `(H, W, 3)` uint8 array of a Pillow image of any mode, on white."""
    if image.mode == "F":  # Pillow would clip it; by custom from 0 to 1
        values = np.asarray(image)
        scaled = np.nan_to_num(values) * (255 if values.max() <= 1 else 1)
        return np.repeat(scaled.clip(0, 255).round().astype(np.uint8)[..., None], 3, axis=2)
    if image.mode.startswith("I;16") or image.mode == "I":  # 16-bit grey: Pillow would clip it, not scale it
        grey = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return on_white(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))
