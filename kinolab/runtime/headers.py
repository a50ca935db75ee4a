"""The header of a `.safetensors` file, without torch: for who lists files of weights and reads no tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kinolab.errors import InputError
from kinolab.runtime.reading import Limits, open_plain, parse_json

LENGTH = 8
"""Bytes that say how long the header is, little end first."""
LIMITS = Limits(bytes=100 * 2**20, depth=8, values=4_000_000)
"""Of a header; the library's own limit is 100 MB."""


def peek(path: Path) -> dict[str, Any]:
    """The header: tensors by name, each with `dtype`, `shape` and `data_offsets`, and `__metadata__`.

    Raises:
        InputError: where it is no whole safetensors file, as far as header and length say it.
        OSError: where it can't be read.
    """
    with open_plain(path) as file:
        long = int.from_bytes(file.read(LENGTH), "little")
        size = path.stat().st_size
        if not 2 <= long <= min(LIMITS.bytes, size - LENGTH):
            raise InputError(f"{path}: no safetensors file, or cut off; get it again")
        text = file.read(long)
    header = parse_json(text, f"{path}: header", LIMITS)
    ends = [0]
    for name, told in header.items() if isinstance(header, dict) else ():
        if name != "__metadata__":
            offsets = told.get("data_offsets") if isinstance(told, dict) else None
            ends.append(offsets[1] if isinstance(offsets, list) and len(offsets) == 2 else size)
    if not isinstance(header, dict) or any(not isinstance(end, int) or end + LENGTH + long > size for end in ends):
        raise InputError(f"{path}: damaged or cut off safetensors file; get it again")
    return header
