"""Hashes: SHA-256 where something is told apart by its content, and a quick sum where a flipped bit is to be noticed.

The quick sum of a tensor is a CRC-32 (zlib's) over the sums, modulo 2^64, of its bytes taken as little-endian 64-bit
words in blocks of 4,096 bytes, and over the bytes of the last, incomplete block as they are. One changed word always
changes its block's sum, so every flipped bit is noticed; so are blocks that are lost, zeroed or swapped. It goes about
as fast as memory is read, which zlib's CRC-32 and SHA-256 of all bytes don't, and finds NaN in the same pass. It is no
defence against somebody who changes a file on purpose: that is what SHA-256 is for.

Torch is imported by the functions that take tensors only.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from kinolab.runtime.reading import open_plain

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 2**20
"""Bytes that are read, or summed, at once."""
BLOCK = 4096
"""Bytes whose words are added up to one sum."""
SMALL = 2**20
"""Bytes of a tensor that is summed at once, by numpy: torch's calls take as long as adding up so few."""
HEAD = 2**20
"""Bytes of a file's beginning that `head_sha256` reads of what is no safetensors file."""
LONGEST_HEADER = 100 * 2**20
"""Bytes of a safetensors header; the format allows no more."""


class Sha256:
    """A SHA-256 over several things, added one after the other and never held whole."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def text(self, text: str) -> Sha256:
        """Add a text, in UTF-8."""
        self._digest.update(text.encode("utf-8", "surrogateescape"))
        return self

    def data(self, data: bytes | memoryview) -> Sha256:
        """Add bytes."""
        self._digest.update(data)
        return self

    def file(self, path: Path) -> Sha256:
        """Add a file's content.

        Raises:
            OSError: where it can't be read.
        """
        with open_plain(path) as file:
            _feed(file, self._digest.update)
        return self

    def tensor(self, tensor: Tensor) -> Sha256:
        """Add a tensor's bytes, in the order of its elements; not its shape or type."""
        self._digest.update(tensor_bytes(tensor))
        return self

    def digest(self) -> bytes:
        """The 32 bytes."""
        return self._digest.digest()

    def hex(self) -> str:
        """The 64 hexadecimal digits."""
        return self._digest.hexdigest()


def sha256(data: bytes | str) -> str:
    """SHA-256 of bytes, or of a text in UTF-8, in hexadecimal."""
    return Sha256().text(data).hex() if isinstance(data, str) else Sha256().data(data).hex()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Raises:
        OSError: where it can't be read.
    """
    return Sha256().file(path).hex()


def json_sha256(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """SHA-256 of a value's canonical JSON (see `canonical`), in hexadecimal."""
    return sha256(canonical(value, default))


def seed_bytes(text: str) -> bytes:
    """Eight bytes for the seed of a draw that a text names: its BLAKE2b, the same on every machine."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def canonical(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """A value as the one JSON text that stands for it: keys in order, ASCII, `, ` and `: ` between.

    default: what other values are written as, as for json.dumps.
    """
    return json.dumps(value, sort_keys=True, default=default)


def head_sha256(path: Path) -> str:
    """SHA-256 of what tells a file apart at its beginning: a safetensors file's header, of others the first 1 MiB.

    The header that `runtime.weights` writes holds the sum of every tensor, so it stands for the whole content.

    Raises:
        OSError: where the file can't be read.
    """
    with open_plain(path) as file:
        start = file.read(9)
        length = int.from_bytes(start[:8], "little")
        tensors = start[8:] == b"{" and length <= LONGEST_HEADER
        return Sha256().data(start + file.read(length - 1 if tensors else HEAD)).hex()


def tensor_bytes(tensor: Tensor) -> memoryview:
    """A tensor's bytes in the order of its elements; no copy of one that is contiguous and on the CPU."""
    import torch

    flat = _flat(tensor)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def _flat(tensor: Tensor) -> Tensor:
    """A tensor's elements in a row, on the CPU. Of a single element every stride counts as contiguous, and most of them
    can't be looked at as bytes."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.as_strided((flat.numel(),), (1,))


@dataclass(frozen=True)
class Scan:
    """What one pass over a tensor found: its quick sum, eight hexadecimal digits, and whether any value is NaN."""

    sum: str
    nan: bool


def scan(tensor: Tensor, search: bool = True) -> Scan:
    """The quick sum of a tensor (see the module), and with `search` whether a NaN is in it, in one pass over memory.

    A pass reads a piece that fits a processor's cache twice: once as words and once as numbers. NaN is looked for by
    adding numbers up, as NaN and opposite infinities are the only ones with a sum that is NaN; only a piece with such
    a sum is looked at number by number.
    """
    import torch

    flat = _flat(tensor)
    if not flat.numel():
        return Scan(f"{0:08x}", False)
    data = flat.view(torch.uint8)
    if data.data_ptr() % 8:
        data = data.clone()
        flat = data.view(flat.dtype)
    searched = search and (flat.is_floating_point() or flat.is_complex())
    if len(data) <= SMALL:
        return Scan(_small_sum(data.numpy()), searched and _has_nan(flat))
    whole = len(data) // BLOCK * BLOCK
    words, step = data[:whole].view(torch.int64), CHUNK // 8
    sums = torch.empty(whole // BLOCK, dtype=torch.int64, device="cpu")  # also where models are built without memory
    size, nan = flat.element_size(), False
    for begin in range(0, whole, CHUNK):
        piece = words[begin // 8 : begin // 8 + step].view(-1, BLOCK // 8)
        torch.sum(piece, 1, out=sums[begin // BLOCK : begin // BLOCK + len(piece)])
        if searched and not nan:
            nan = _has_nan(flat[begin // size : min(begin + CHUNK, whole) // size])
    if searched and not nan and whole < len(data):
        nan = _has_nan(flat[whole // size :])
    crc = zlib.crc32(data[whole:].numpy().data, zlib.crc32(sums.numpy().data.cast("B")))
    return Scan(f"{crc:08x}", nan)


def _small_sum(data: np.ndarray) -> str:
    """The quick sum of a few bytes: as in `scan`, by numpy, whose calls take less time than torch's."""
    whole = len(data) // BLOCK * BLOCK
    sums = data[:whole].view(np.uint64).reshape(-1, BLOCK // 8).sum(1, dtype=np.uint64)
    return f"{zlib.crc32(data[whole:].data, zlib.crc32(sums.data.cast('B') if len(sums) else b'')):08x}"


def _has_nan(piece: Tensor) -> bool:
    import torch

    if piece.is_complex():
        piece = torch.view_as_real(piece)
    if piece.element_size() == 1:  # the types of eight bits know no sums
        piece = piece.float()
    return math.isnan(piece.sum().item()) and bool(piece.isnan().any())


def _feed(file: BinaryIO, update: Callable[[memoryview], None]) -> None:
    """Give a file's content piece by piece to a hash."""
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    while count := file.readinto(buffer):  # type: ignore[attr-defined]
        update(view[:count])
