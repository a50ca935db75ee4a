"""Of a folder of a store, what is needed of it and no more: byte ranges and single clips, kept on so much of this disk.

So a set that is larger than this machine's disk can be read, again and again: what was used longest ago makes room.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.runtime.hashes import file_sha256, scan
from kinolab.runtime.kept import Kept
from kinolab.runtime.lines import shown
from kinolab.runtime.paths import inside
from kinolab.runtime.reading import parse_json
from kinolab.runtime.remote import Entry, Mirror
from kinolab.runtime.weights import DTYPES, FORMAT, LIMITS, ROWS, SUMS, sum_of_rest

FIRST = 2**16
"""Bytes of a shard that are read first, which hold most headers whole."""
TYPES = {name: dtype for dtype, name in DTYPES.items()}


class Near:
    """What is near of a store's folder.

    Args:
        mirror: the folder.
        limit: bytes of this machine's disk; every process that reads the folder has its own say, and the least counts.
        known: its objects, where they were listed; of others the store is asked one by one.
    """

    def __init__(self, mirror: Mirror, limit: int, known: Mapping[str, Entry] | None = None) -> None:
        self.mirror, self.limit = mirror, limit
        self.kept = Kept(mirror.path.parent / "near", limit)
        self._known = dict(known or {})

    def __getstate__(self) -> tuple[Mirror, int]:
        return self.mirror, self.limit

    def __setstate__(self, state: tuple[Mirror, int]) -> None:
        Near.__init__(self, *state)

    def entry(self, name: str) -> Entry:
        """What is known of an object.

        Raises:
            InputError: where there is none, or the store doesn't answer.
        """
        if name not in self._known:
            self._known[name] = self.mirror.entry(name)
        return self._known[name]

    def read(self, name: str, begin: int, end: int) -> bytes:
        """Bytes of an object, from here or by a range read.

        Raises:
            InputError: where there are no such, or the store doesn't answer.
        """

        def get() -> bytes:
            data = self.mirror.read(name, begin, end)
            if len(data) != end - begin:
                raise InputError(f"{self.mirror.url}/{name}: ends behind byte {begin + len(data):,}; damaged")
            return data

        entry = self.entry(name)
        return self.kept.data(f"{name} {entry.bytes} {entry.moment} {begin} {end}", get)

    @contextmanager
    def using(
        self, name: str, content: str | None = None, entries: Mapping[str, Entry] | None = None
    ) -> Iterator[Path]:
        """An object, or all below a folder of that name, as a path inside the block.

        content: the SHA-256 that a file has to have when it is fetched. entries: what is known of it; none = it is
        looked up.

        Raises:
            InputError: where there is no such object, its content is another, or the store doesn't answer.
        """
        inside(self.mirror.path, name)
        entries = self._below(name) if entries is None else entries
        version = sorted((each, entry.bytes, entry.moment) for each, entry in entries.items())

        def get(room: Path) -> None:
            for each, entry in entries.items():
                self.mirror.get(each, entry, room / self._short(each, name))
            if content is not None and list(entries) == [name] and file_sha256(room / Path(name).name) != content:
                raise InputError(f"{self.mirror.url}/{name}: not what it was when it was looked at; begin again")

        with self.kept.place(f"{name} {version}", sum(entry.bytes for entry in entries.values()), get) as folder:
            yield folder / Path(name).name

    def signature(self, name: str) -> tuple[int, int]:
        """Bytes and moment of an object or of all below a folder, by which a change is noticed; (-1, 0) = gone."""
        try:
            entries = self._below(name).values()
        except InputError:
            return -1, 0
        return sum(entry.bytes for entry in entries), max(entry.moment for entry in entries)

    def _below(self, name: str) -> dict[str, Entry]:
        """The object of a name, or all below the folder of that name."""
        if name in self._known:
            return {name: self._known[name]}
        if name == ".":  # the folder itself is a clip
            return self._known or self.mirror.listed()
        found = {each: entry for each, entry in self._known.items() if each.startswith(f"{name}/")}
        if not found:
            found = self.mirror.below(name)
            self._known |= found
        return found

    @staticmethod
    def _short(each: str, name: str) -> str:
        """Where an object lies in the folder that is kept: below the last part of the name that was asked for."""
        return each if name == "." else Path(name).name + each.removeprefix(name)


@dataclass(frozen=True)
class Place:
    """Where a tensor stands in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int
    sums: tuple[str, ...]
    """Of its rows; none in files without."""


class Rows:
    """A tensor of a shard in a store, of which single rows are read by their index."""

    def __init__(self, near: Near, name: str, tensor: str, place: Place) -> None:
        self.near, self.name, self.tensor, self.place = near, name, tensor, place

    def __len__(self) -> int:
        return self.place.shape[0]

    def __getitem__(self, row: int) -> Tensor:
        """A row, as it is stored.

        Raises:
            InputError: where it differs from its sum or holds NaN, or the store doesn't answer.
        """
        place = self.place
        size = (place.end - place.begin) // place.shape[0]
        begin = place.begin + row * size
        data = bytearray(self.near.read(self.name, begin, begin + size))
        tensor = torch.frombuffer(data, dtype=place.dtype).reshape(place.shape[1:])
        found = scan(tensor)
        if found.nan or (place.sums and place.sums[row] != found.sum):
            what = "holds NaN" if found.nan else "differs from what was written"
            raise InputError(f"{self.near.mirror.url}/{self.name}: row {row} of {self.tensor} {what}; encode again")
        return tensor


def rows_of(near: Near, name: str) -> dict[str, Rows]:
    """The tensors of a `.safetensors` object in a store, of which no more than the header is read.

    Raises:
        InputError: where there is no such object, or it is no such file.
    """
    where, size = f"{near.mirror.url}/{name}", near.entry(name).bytes
    start = near.read(name, 0, min(FIRST, size))
    end = 8 + int.from_bytes(start[:8], "little")
    if len(start) < 10 or start[8:9] != b"{" or end > min(size, LIMITS.bytes):
        raise InputError(f"{where}: not a safetensors file, or damaged at its beginning; encode again")
    data = start[8:end] if end <= len(start) else (start + near.read(name, len(start), end))[8:]
    try:
        return _places(near, name, parse_json(data, "JSON", LIMITS), end, size)
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where}: its header is damaged ({shown(str(error))}); encode again") from None


def _places(near: Near, name: str, header: Any, end: int, size: int) -> dict[str, Rows]:
    """Where each tensor of a header stands, checked against each other, the file's size and the header's sum."""
    entries = header.pop("__metadata__", {})
    sums = json.loads(entries[ROWS]) if ROWS in entries else {}
    if SUMS in entries:
        rest = {key: value for key, value in entries.items() if key != SUMS}
        said = json.loads(entries[SUMS])
        if said["format"] != FORMAT or said["rest"] != sum_of_rest(
            rest, {k: (v["dtype"], tuple(v["shape"])) for k, v in header.items()}
        ):
            raise ValueError("it differs from what was written")
    rows = {}
    for tensor, told in header.items():
        dtype, shape, (first, last) = TYPES[told["dtype"]], tuple(told["shape"]), told["data_offsets"]
        if not shape or not shape[0] or last - first != math.prod(shape) * dtype.itemsize or end + last > size:
            raise ValueError(f"{tensor} is not where it says")
        place = Place(dtype, shape, end + first, end + last, tuple(sums.get(tensor, ())))
        if place.sums and len(place.sums) != shape[0]:
            raise ValueError(f"{tensor} has {shape[0]} rows, and sums of {len(place.sums)}")
        rows[tensor] = Rows(near, name, tensor, place)
    return rows
