"""Whether bytes that a demuxer passed over make sense in their container, or are garbage (part of `kinolab.video`).

Each function walks from one offset to another along the lengths that the container's own elements state, and says
whether that leads where it should. No codec is touched here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

Walk = Callable[[BinaryIO, int, int], bool]
"""(file, from, to) -> whether what lies between is in order."""

# Elements whose content is walked through: Segment, Cluster, BlockGroup.
_EBML_MASTERS = frozenset({0x18538067, 0x1F43B675, 0xA0})
# Void, CRC-32, Cues, Tags, SeekHead, Info, Tracks, Chapters, Attachments, EBML header; of a cluster: timestamp,
# position, previous size, blocks and what describes them.
_EBML_KNOWN = _EBML_MASTERS | {
    0xEC, 0xBF, 0x1C53BB6B, 0x1254C367, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1043A770, 0x1941A469, 0x1A45DFA3,
    0xA3, 0xA1, 0xE7, 0xA7, 0xAB, 0xAF, 0x75A1, 0x9B, 0xFA, 0xFB, 0xFD, 0xA4, 0x75A2, 0x8E, 0x5854,
}  # fmt: skip
_EBML_BLOCKS = frozenset({0xA3, 0xA1})
_LONGEST = 100_000  # elements that are walked at most


def matroska(file: BinaryIO, start: int, stop: int) -> bool:
    """From the content of one block to that of another, or to the end of the file (RFC 9559)."""
    position = _block_end(file, start)
    for _ in range(_LONGEST):
        if position is None or position == stop:
            return True
        if position > stop:
            return False
        file.seek(position)
        head = file.read(12)
        identifier, width = _ebml(head, 0, keep_marker=True)
        length, wide = _ebml(head, width, keep_marker=False)
        if identifier not in _EBML_KNOWN or length is None:
            return False
        content = position + width + wide
        if content == stop:
            return identifier in _EBML_BLOCKS
        unknown = length == (1 << 7 * wide) - 1
        position = content if unknown or identifier in _EBML_MASTERS else content + length
    return True


def _block_end(file: BinaryIO, content: int) -> int | None:
    """Where a block ends whose content begins at an offset: its length stands before that."""
    file.seek(max(0, content - 9))
    head = file.read(min(9, content))
    for width in range(1, len(head)):
        length, wide = _ebml(head, len(head) - width, keep_marker=False)
        if length is not None and wide == width and head[-width - 1] in _EBML_BLOCKS:
            return content + length
    return None


def _ebml(data: bytes, at: int, keep_marker: bool) -> tuple[int | None, int]:
    """A number of variable width and its width in bytes; None where there is none."""
    if at >= len(data) or data[at] == 0:
        return None, 1
    width = 9 - data[at].bit_length()
    if at + width > len(data):
        return None, 1
    number = int.from_bytes(data[at : at + width], "big")
    return (number if keep_marker else number & (1 << 7 * width) - 1), width


def flv(file: BinaryIO, start: int, stop: int) -> bool:
    """From one tag to another, or to the end of the file."""
    position = start
    while position < stop:
        file.seek(position)
        head = file.read(11)
        if len(head) < 11 or head[0] & 0x1F not in (8, 9, 18):
            return False
        position += 15 + int.from_bytes(head[1:4], "big")
    return position == stop


def transport(file: BinaryIO, start: int, stop: int) -> bool:
    """From one packet to another, of 188 bytes (.m2ts 192, with error correction 204) that begin with the byte 0x47."""
    file.seek(start)
    data = file.read(stop - start)
    size = next((size for size in (188, 192, 204) if len(data) > size and data[size] == 0x47), 188)
    return all(byte == 0x47 for byte in data[::size])


def program(file: BinaryIO, start: int, stop: int) -> bool:
    """From one pack or packet to another, along their lengths (ISO 13818-1, 2.5)."""
    position = start
    while position < stop:
        file.seek(position)
        head = file.read(14)
        if len(head) < 4 or head[:3] != b"\0\0\1" or head[3] < 0xB9:
            return False
        if head[3] == 0xB9:  # the end
            position += 4
        elif head[3] == 0xBA:
            position += 14 + (head[13] & 7) if len(head) == 14 and head[4] >> 6 == 1 else 12
        else:
            position += 6 + int.from_bytes(head[4:6], "big")
    return position == stop


WALKS: dict[str, Walk] = {"matroska": matroska, "flv": flv, "mpegts": transport, "mpeg": program}
"""By libav's name of the format."""
