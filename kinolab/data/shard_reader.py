"""Reading the shards of a latent cache: mapped from a disk, fetched whole from a store, or row by row of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from kinolab.errors import InputError
from kinolab.runtime.near import Near, Rows, rows_of
from kinolab.runtime.remote import AT_ONCE, Mirror, is_remote
from kinolab.runtime.weights import read_weights

OPEN_SHARDS = 128
"""Shards that stay open."""
GIVEN_ENDING = ".given.safetensors"
"""Of the file of masked draws beside a shard."""
T = TypeVar("T", Tensor, Rows)


def given_file(shard: str) -> str:
    """The file of masked draws beside a shard."""
    return shard.removesuffix(".safetensors") + GIVEN_ENDING


class ShardReader:
    """Memory-mapped shards of one cache; the most recently used stay open.

    mirror: of a cache in a store, whose shards are fetched when they are needed. near: of one of which single rows are
    read; what of it was fetched whole before is read from there.
    """

    def __init__(
        self, path: Path, in_memory: bool = False, mirror: Mirror | None = None, near: Near | None = None
    ) -> None:
        self.path, self.in_memory, self.mirror, self.near = path, in_memory, mirror, near
        self._open: OrderedDict[str, Mapping[str, Tensor | Rows]] = OrderedDict()
        self._checked = set[str]()  # a shard that is opened again need not be read whole for one window

    def tensors(self, shard: str) -> Mapping[str, Tensor | Rows]:
        """The tensors of a shard, mapped and not yet read (or held, with `in_memory`)."""
        found = self._open.get(shard)
        if found is None:
            found = self._open[shard] = self._load(shard)
            while len(self._open) > OPEN_SHARDS and not self.in_memory:
                self._open.popitem(last=False)
        elif not self.in_memory:
            self._open.move_to_end(shard)
        return found

    def ahead(self, wanted: Sequence[tuple[str, int]]) -> None:
        """Fetch rows of shards that are read next, several at once; nothing where whole shards are read."""
        if self.near is None:
            return
        with ThreadPoolExecutor(AT_ONCE) as pool:
            new = dict.fromkeys(shard for shard, _ in wanted if shard not in self._open)
            for shard, tensors in zip(new, pool.map(self._load, new), strict=True):
                self._open[shard] = tensors
            rows = [(t, row) for shard, row in wanted for t in self.tensors(shard).values() if isinstance(t, Rows)]
            for _ in pool.map(lambda each: each[0][each[1]], rows):
                pass

    def _load(self, shard: str) -> Mapping[str, Tensor | Rows]:
        file = self.path / "shards" / shard
        if self.near is not None and not file.exists():
            return _needed(rows_of(self.near, f"shards/{shard}"), shard, file)
        if self.mirror is not None:
            self.mirror.need(f"shards/{shard}")
        try:
            advice = "delete it and run the same kinolab encode again"
            tensors = read_weights(file, advice=advice, check=shard not in self._checked).tensors
            self._checked.add(shard)
        except FileNotFoundError:
            raise InputError(f"{file}: missing; run the same kinolab encode again") from None
        found = _needed(tensors, shard, file)
        return {name: t.clone() for name, t in found.items()} if self.in_memory else dict(found)


def _needed(tensors: Mapping[str, T], shard: str, file: Path) -> Mapping[str, T]:
    """The tensors of a shard, if they are those that it has to hold."""
    needed = ("given", "mask") if shard.endswith(GIVEN_ENDING) else ("latents",)
    lost = [name for name in needed if name not in tensors]
    if lost:
        raise InputError(f"{file}: holds no {lost[0]}; delete it and run the same kinolab encode again")
    return tensors


def check_disk(path: Path, disk_gb: float | None) -> None:
    """Refuse `disk_gb` of what lies on a disk of this machine; raises ValueError, for a config's own check."""
    if disk_gb is not None and not is_remote(path):
        raise ValueError(f"disk_gb is for what lies in a store (s3://...), and {path} does not: leave it out")
