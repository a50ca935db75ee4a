"""Encodes frames (part of `video.py`)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from kinolab.errors import InputError
from kinolab.video.codec import ColorRange, Colorspace, Interpolation, VideoReformatter, av
from kinolab.video.picture import accurate

WRITE_SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".gif", ".webp")
GROWING_MP4 = "+frag_keyframe+empty_moov+default_base_moof"
"""In fragments, of which each plays by itself, in place of one index of all frames, which is known at the end."""
COMMENTED = (".mp4", ".mov", ".mkv", ".webm")
"""Endings of files that hold a comment of any length."""
PICTURE = ".png"
"""The ending of a file for a clip of one frame."""


def check_ending(path: Path, frames: int | None = None) -> None:
    """Raises InputError for an ending that is not written; frames = how many are meant, none = not known yet.

    For commands whose frames take long to make: what `write` would say after them is said before.
    """
    suffix = path.suffix.lower()
    if suffix == PICTURE and frames not in (None, 1):
        raise InputError(
            f"{path}: a .png holds one frame, got {frames or 'more'}: expected {', '.join(WRITE_SUFFIXES)}, or no "
            "ending for a folder of PNG files"
        )
    if suffix and suffix not in (*WRITE_SUFFIXES, PICTURE):
        raise InputError(
            f"{path}: cannot write {suffix!r}; expected {', '.join(WRITE_SUFFIXES)}, .png for a single frame, or no "
            "ending for a folder of PNG files"
        )


def write_picture(path: Path, frame: np.ndarray) -> None:
    """One RGB frame as a PNG file."""
    Image.fromarray(frame).save(path, format="PNG", compress_level=3)


def write_images(folder: Path, frames: Iterator[np.ndarray]) -> None:
    """000000.png, 000001.png ... in a new folder."""
    folder.mkdir(exist_ok=True)
    for index, image in enumerate(frames):
        Image.fromarray(image).save(folder / f"{index:06d}.png", compress_level=3)


def encode(
    path: Path,
    frames: Iterator[np.ndarray],
    shape: tuple[int, ...],
    rate: Fraction,
    quality: int,
    lossless: bool,
    growing: bool = False,
    comment: str = "",
) -> None:
    """Write RGB frames with libav, in the format that the path's ending names; a `growing` file plays meanwhile.

    comment: a text that the file holds beside them, where its format takes one (`COMMENTED`).
    """
    suffix = path.suffix.lower()
    codec, pixels, options = _codec(suffix, quality, lossless)
    height, width = shape[:2]
    if codec == "libx264":
        height, width = height + height % 2, width + width % 2
    graph = _palette_graph(height, width, rate) if suffix == ".gif" else None
    reformatter = VideoReformatter()
    with av.open(f"file:{os.path.abspath(path)}", "w", options=_container_options(suffix, growing)) as container:
        if comment and suffix in COMMENTED:
            container.metadata["comment"] = comment
        stream = container.add_stream(codec, rate=rate, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.gop_size = max(1, round(rate if growing else 2 * rate))
        stream.codec_context.time_base = 1 / rate
        if pixels == "yuv420p":
            context = stream.codec_context
            context.colorspace, context.color_primaries, context.color_trc, context.color_range = 1, 1, 1, 1
        for index, image in enumerate(frames):
            if image.shape[:2] != (height, width):
                image = np.pad(image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = index, 1 / rate
            if graph is not None:
                graph.vpush(frame)
                frame = graph.vpull()
                frame.pts, frame.time_base = index, 1 / rate
            elif pixels == "yuv420p":
                frame = reformatter.reformat(
                    frame,
                    format=pixels,
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                    interpolation=accurate() | Interpolation.FULL_CHR_H_INP,
                    threads=1,
                )
            else:
                frame = reformatter.reformat(frame, format=pixels, threads=1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _container_options(suffix: str, growing: bool) -> dict[str, str]:
    """What libav is told of a file as a whole."""
    options = {"fflags": "+bitexact"}  # no random identifiers and dates
    if suffix in (".mp4", ".mov"):
        options["movflags"] = GROWING_MP4 if growing else "+faststart"
    if growing:
        options["flush_packets"] = "1"
        if suffix in (".mkv", ".webm"):  # else a cluster is written when it is full, after many seconds
            options["cluster_time_limit"] = "1000"
    return options


def _codec(suffix: str, quality: int, lossless: bool) -> tuple[str, str, dict[str, str]]:
    """Encoder, pixel format and encoder options for a file ending."""
    if suffix == ".gif":
        return "gif", "pal8", {}
    if suffix == ".webp":
        return "libwebp_anim", "bgra", {"lossless": "1" if lossless else "0", "quality": str(quality), "loop": "0"}
    if lossless:
        return "ffv1", "bgr0", {"level": "3"}
    if suffix == ".webm":
        crf = round(12 + 0.45 * (100 - quality))
        return "libvpx-vp9", "yuv420p", {"crf": str(crf), "b": "0", "cpu-used": "4", "row-mt": "1"}
    # Without mbtree: builds of x264 with AVX-512 are not repeatable with it on small pictures.
    options = {"crf": f"{8 + 0.4 * (100 - quality):.1f}", "preset": "fast", "mbtree": "0"}
    if suffix == ".avi":  # has no times of display for frames out of order
        options["bf"] = "0"
    return "libx264", "yuv420p", options


def _palette_graph(height: int, width: int, rate: Fraction) -> av.filter.Graph:
    """A filter that gives every frame a palette of its own, so that no second pass over the frames is needed."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=1 / rate)
    split = graph.add("split")
    palette = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
    use = graph.add("paletteuse", "new=1:dither=sierra2_4a:diff_mode=rectangle")
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    return graph


def checked_frames(path: Path, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames as contiguous arrays; an InputError at the first that is not uint8 RGB or has another size."""
    first: tuple[int, ...] | None = None
    for index, frame in enumerate(frames):
        image = np.ascontiguousarray(frame)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise InputError(f"{path}: frame {index}: expected uint8 (H, W, 3), got {image.dtype} {image.shape}")
        first = first or image.shape
        if image.shape != first:
            raise InputError(
                f"{path}: frame {index} is {image.shape[1]}x{image.shape[0]}, the first was {first[1]}x{first[0]}"
            )
        yield image
