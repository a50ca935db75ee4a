"""What `kinolab.video` needs to know about files as bytes: no codec is touched here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kinolab.runtime import files
from kinolab.runtime.reading import open_plain


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A file (a folder, where `path` has no ending) beside `path` that takes its place when the block ends well.

    Whatever stands under that name (a file or a folder) is removed after an error; `path` then stays as it was.
    """
    with files.handed(path) if path.suffix else files.new_folder(path) as room:
        yield room


def unreadable(path: Path) -> str:
    """Why a file that no demuxer accepts cannot be read, from its first bytes."""
    with open_plain(path) as file:
        head = file.read(64)
        if head[4:8] == b"ftyp":
            boxes = [kind for kind, _ in _boxes(file, path.stat().st_size)]
            if b"moov" not in boxes:
                return "truncated: its index (the moov box) is missing, as after an interrupted recording or download"
    cut = cut_short(path)
    if cut:
        return f"truncated: {cut}"
    known = head[4:8] == b"ftyp" or head[:4] in (b"RIFF", b"\x1aE\xdf\xa3", b"GIF8")
    return "damaged: it begins like a video but cannot be opened" if known else "not a video that can be read"


def cut_short(path: Path) -> str | None:
    """How much is missing where the container's own sizes say that the file should be longer; else None.

    Knows mp4, mov and avif (boxes), mkv and webm (EBML), avi and webp (RIFF), PNG (chunks), gif (its closing byte).
    """
    size = path.stat().st_size
    with open_plain(path) as file:
        head = file.read(64)
        if head[:4] == b"GIF8":
            file.seek(max(0, size - 64))
            return None if b";" in file.read() else "the closing byte of the gif is missing"
        check: Callable[[BinaryIO, int], int] | None = None
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            check = _mp4_length
        elif head[:4] == b"RIFF":
            check = _riff_length
        elif head[:4] == b"\x89PNG":
            check = _png_length
        elif head[:4] == b"\x1aE\xdf\xa3":
            check = _matroska_length
        expected = check(file, size) if check else 0
    return f"{size} of {expected} bytes are there" if expected > size else None


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """(type, end) of each box at the top level of an mp4 file."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:  # the last box reaches to the end of the file
            length = size - position
        if length < 8 or not kind.isalnum():
            return  # something else was appended
        position += length
        yield kind, position


def _mp4_length(file: BinaryIO, size: int) -> int:
    """Where the boxes that matter end."""
    return max((end for kind, end in _boxes(file, size) if kind in (b"mdat", b"moov", b"moof")), default=0)


def _riff_length(file: BinaryIO, size: int) -> int:
    file.seek(4)
    length = int.from_bytes(file.read(4), "little")
    return 8 + length if length != 0xFFFFFFFF else 0


def _png_length(file: BinaryIO, size: int) -> int:
    """Where its chunks end, the closing one included."""
    position = 8
    while position + 8 <= size:
        file.seek(position)
        header = file.read(8)
        position += 12 + int.from_bytes(header[:4], "big")
        if header[4:] == b"IEND":
            return position
    return max(position, size) + 12


def _matroska_length(file: BinaryIO, size: int) -> int:
    """End of the segment (the second top-level element); 0 where its size is left open, as in live recordings."""
    position = 4
    for _ in range(2):
        file.seek(position)
        first = int.from_bytes(file.read(1), "big")  # 0, of a width that is none, at the end of the file
        width = 9 - first.bit_length()  # the leading one bit tells how many bytes hold the length
        if width > 8:
            return 0
        rest = file.read(width - 1)
        length = int.from_bytes(bytes([first & (0xFF >> width)]) + rest, "big")
        if length == (1 << (7 * width)) - 1:
            return 0
        end = position + width + length
        position = end + 4  # past the four bytes of the segment's identifier
    return end
