"""How long the frames of animated images are shown: webp and PNG by their chunks, AVIF by its index (part of
`kinolab.video`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from kinolab.runtime.reading import open_plain
from kinolab.video.codec import av

SHORTEST, INSTEAD = 0.01, 0.1
"""Frames that say that they are shown for so many seconds or less are shown for `INSTEAD`, as in browsers."""


def durations_of(path: Path) -> list[float]:
    """Seconds that each frame of an animated image is shown; empty for a still, or for anything else."""
    with open_plain(path) as file:
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:] == b"WEBP":
            seconds = list(_webp(file))
        elif head[:8] == b"\x89PNG\r\n\x1a\n":
            seconds = list(_png(file))
        elif head[4:12] == b"ftypavis":
            seconds = _avif(path)
        else:
            return []
    return [second if second > SHORTEST else INSTEAD for second in seconds] if len(seconds) > 1 else []


def _webp(file: BinaryIO) -> Iterator[float]:
    """From the frames of the container (RFC 9649, 2.7.1)."""
    while len(header := file.read(8)) == 8:
        length = int.from_bytes(header[4:], "little")
        after = file.tell() + length + length % 2
        if header[:4] == b"ANMF":  # x, y, width, height, duration: three bytes each
            yield int.from_bytes(file.read(15)[12:15], "little") / 1000
        file.seek(after)


def _png(file: BinaryIO) -> Iterator[float]:
    """From the frame controls (PNG, third edition, 11.3.6.2)."""
    file.seek(8)
    animated = False
    while len(header := file.read(8)) == 8:
        length, kind = int.from_bytes(header[:4], "big"), header[4:]
        after = file.tell() + length + 4
        if kind == b"IDAT" and not animated:
            return
        animated = animated or kind == b"acTL"
        if kind == b"fcTL":  # number, width, height, x, y: four bytes each; then the fraction of a second
            data = file.read(24)
            over, under = int.from_bytes(data[20:22], "big"), int.from_bytes(data[22:24], "big")
            yield over / (under or 100)
        file.seek(after)


def _avif(path: Path) -> list[float]:
    """From the longest track: the others are its first picture, and the same of the transparency."""
    with (
        suppress(av.error.FFmpegError, ValueError),
        av.open(f"file:{path.absolute()}", metadata_errors="replace") as file,
    ):
        stream = max(file.streams.video, key=lambda s: s.frames)
        return [float((p.duration or 0) * (p.time_base or 0)) for p in file.demux(stream) if p.size]
    return []
