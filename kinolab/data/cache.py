"""The latent cache: what lies in its folder, and reading it as a source of latents.

    cache/
      cache.json             header: format, Kinolab version, autoencoder, transform, classes, statistics
      index.jsonl            one line per shard: its file and its items, appended once the shard is on disk
      shards/<name>.safetensors    latents (N, C, T, h, w), and logvar where it was kept; N items of one shape
      shards/<name>.given.safetensors   where masks were drawn: given latents (N, D, C, T, h, w) and masks
                             (N, D, R, T, h, w), D draws of each item

An item's key is the sha256 of its source file's hash, time range, transform and autoencoder. A line that a kill cut
short names no finished shard, so it is left out; everything before it is valid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kinolab.contracts.examples import ClipRecord, Example, ShapeRules, Source, SourceConfig, Split, Verdict, by_shape
from kinolab.data.clips import heldout_hashes
from kinolab.data.shard_reader import ShardReader, check_disk, given_file
from kinolab.errors import InputError
from kinolab.runtime.hashes import json_sha256
from kinolab.runtime.lines import shown
from kinolab.runtime.near import Near
from kinolab.runtime.paths import single
from kinolab.runtime.reading import Limits, json_lines, read_json
from kinolab.runtime.records import Record
from kinolab.runtime.remote import mirror_of
from kinolab.runtime.summed import summed

FORMAT = 1
LINES = Limits(bytes=256 * 2**20, depth=16, values=10_000_000)
"""Of a line of the index, which lists all windows of a shard."""


class CacheConfig(SourceConfig):
    """A latent cache written by `kinolab encode`."""

    kind: Literal["cache"] = "cache"
    path: Path
    """The cache's folder; of a store too, as s3://bucket/latents, whose shards are fetched when they are needed."""
    split: Split = "train"
    """Which side to yield: train, heldout, or all; windows of one file are always on one side."""
    heldout_fraction: float = Field(0.05, ge=0, lt=1)
    """The share of source files that is held out, chosen by their content."""
    in_memory: bool = False
    """Read all latents at once and keep them, in the precision they were written in."""
    disk_gb: float | None = Field(None, gt=0)
    """Of a cache in a store: read window by window, and keep no more than so many GB of it on this machine's disk; what
    was used longest ago makes room. None = shards are fetched whole, and stay."""

    @model_validator(mode="after")
    def _check(self) -> CacheConfig:
        check_disk(self.path, self.disk_gb)
        if self.disk_gb is not None and self.in_memory:
            raise ValueError("in_memory reads all of it, and disk_gb no more than is asked for: set one of them")
        return self


@dataclass(frozen=True)
class CacheItem:
    """One cached window: where its latents are, and all that is known of it."""

    key: str
    row: int
    record: ClipRecord
    shape: tuple[int, int, int, int]


@dataclass(frozen=True)
class ShardEntry:
    """One line of the index."""

    shard: str
    items: tuple[CacheItem, ...]


@dataclass(frozen=True)
class LatentStatistics:
    """Per-channel mean and standard deviation of all latents of a cache, each (C,), over `items` windows."""

    mean: Tensor
    std: Tensor
    items: int


def item_key(
    record: ClipRecord, transform: Mapping[str, object], autoencoder: str, encoding: Mapping[str, object]
) -> str:
    """The address of an item: sha256 over everything that its latents depend on."""
    parts: list[object] = [
        record.source_hash,
        record.time_range,
        record.frames,
        record.fps,
        dict(transform),
        autoencoder,
        dict(encoding),
    ]
    if record.size is not None:
        parts.append(record.size)
    return json_sha256(parts, default=str)


def read_header(path: Path) -> dict[str, Any]:
    """The header of a cache; raises InputError where the folder holds none or one of another format."""
    try:
        header = read_json(path / "cache.json")
    except FileNotFoundError:
        raise InputError(f"{path}: not a latent cache (no cache.json); make one with: kinolab encode") from None
    if not isinstance(header, dict):
        raise InputError(f"{path / 'cache.json'}: expected an object, got {shown(header)}; damaged, encode again")
    if header.get("format") != FORMAT:
        found = shown(header.get("format"))
        raise InputError(f"{path}: a latent cache of format {found}; this Kinolab reads format {FORMAT}")
    return dict(header)


def read_index(path: Path) -> list[ShardEntry]:
    """All finished shards of a cache, in the order they were written; a last line cut short by a kill is left out."""
    index = path / "index.jsonl"
    if not index.is_file():
        return []
    entries = []
    for number, line in json_lines(index, LINES):
        try:
            entries.append(_parse_entry(line))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InputError(f"{index}: line {number} is damaged; delete {path} and encode again") from None
        single(path / "shards", entries[-1].shard, new=False)
    return entries


def lost_items(header: Mapping[str, Any], entries: Sequence[ShardEntry]) -> int:
    """How many windows a finished encoding wrote of which the index says nothing: lines of it are damaged or gone."""
    statistics = header.get("statistics")
    if not header.get("complete") or not isinstance(statistics, dict):
        return 0
    return max(0, Record(statistics, "statistics").integer("items") - sum(len(entry.items) for entry in entries))


def format_entry(entry: ShardEntry) -> str:
    """The index line of a shard, newline included."""
    items: list[dict[str, Any]] = []
    for item in entry.items:
        told = {f: getattr(item.record, f) for f in _RECORD_FIELDS}
        if not item.record.alternatives:
            del told["alternatives"]  # caches of one caption per clip stay as they have always been
        items.append({"key": item.key, "row": item.row, "shape": item.shape, **told})
    return summed({"shard": entry.shard, "items": items}) + "\n"


_RECORD_FIELDS = tuple(f.name for f in fields(ClipRecord))


def _parse_entry(line: Mapping[str, Any]) -> ShardEntry:
    items = []
    for values in line["items"]:
        given = Record(values, "an item of the index", "encode again")
        for name in ("source", "source_hash", "key"):
            given.text(name)
        given.numbers("time_range", count=2)
        given.integers("shape", count=4)
        given.integer("row", at_least=0)
        record = ClipRecord(
            **{name: values[name] for name in _RECORD_FIELDS if name not in ("time_range", "size", "alternatives")},
            time_range=tuple(values["time_range"]),
            size=None if values.get("size") is None else tuple(values["size"]),
            alternatives=tuple(values.get("alternatives", ())),
        )
        items.append(CacheItem(values["key"], values["row"], record, tuple(values["shape"])))
    return ShardEntry(line["shard"], tuple(items))


class CacheSource(Source):
    """A latent cache as a source: `source[i]` is an `Example` of latents.

    Raises:
        InputError: where the folder is not a cache, its encoding never finished a shard, or the split is empty.
    """

    Config = CacheConfig
    encoded = True

    @classmethod
    def from_config(cls, config: CacheConfig, rules: ShapeRules | None, *, annotated: bool) -> CacheSource:
        """The cache of a config; its shapes and captions are settled already."""
        return cls(config)

    def __init__(self, config: CacheConfig) -> None:
        self.config, self._mirror = config, mirror_of(config.path)
        path = config.path if self._mirror is None else self._mirror.fetch(lambda name: not name.startswith("shards/"))
        self.cache: Path = path
        self.header = read_header(path)
        entries = read_index(path)
        located = [(entry.shard, item) for entry in entries for item in entry.items]
        lost = lost_items(self.header, entries)
        if lost:
            raise InputError(
                f"{config.path}: index.jsonl is damaged: it lacks {lost} of {lost + len(located)} windows; "
                "run the same kinolab encode again"
            )
        if not located:
            raise InputError(f"{config.path}: the cache holds no finished shard; run kinolab encode again to go on")
        # Source order, whatever the order in which interrupted or updated encodings wrote the shards.
        located.sort(key=lambda pair: (pair[1].record.source, pair[1].record.time_range, pair[1].key))
        self._heldout = heldout_hashes((item.record.source_hash for _, item in located), config.heldout_fraction)
        self._everything = located
        if config.split == "all":
            self._located = located
        else:
            side = config.split == "heldout"
            self._located = [p for p in located if (p[1].record.source_hash in self._heldout) == side]
        if not self._located:
            raise InputError(
                f"{config.path}: no item on the {config.split} side of {len(located)} "
                f"(heldout_fraction {config.heldout_fraction}); use split: all"
            )
        self.classes: tuple[str, ...] = tuple(Record(self.header, f"{config.path}: cache.json").texts("classes"))
        self.draws = self.header.get("draws")
        near = None
        if config.disk_gb is not None:
            assert self._mirror is not None, "the config's own check"
            near = Near(self._mirror, int(config.disk_gb * 1e9))
        self._reader = ShardReader(path, config.in_memory, self._mirror, near)

    def __len__(self) -> int:
        return len(self._located)

    def __getitem__(self, index: int) -> Example:
        """Latents (C, T, h, w) as float32, with what is known of the window."""
        shard, item = self._located[index]
        tensors = self._reader.tensors(shard)
        if item.row >= len(tensors["latents"]):
            raise InputError(f"{self.config.path}: the index names a row behind the end of {shard}; encode again")
        logvar = tensors.get("logvar")
        drawn = self._reader.tensors(given_file(shard)) if self.draws else {}
        r = item.record
        return Example(
            clip=tensors["latents"][item.row].float(),
            fps=r.fps,
            caption=r.caption,
            label=r.label,
            source=r.source,
            time_range=r.time_range,
            logvar=None if logvar is None else logvar[item.row].float(),
            given=drawn["given"][item.row].float() if drawn else None,
            mask=drawn["mask"][item.row].float() if drawn else None,
            alternatives=r.alternatives,
            encoded=True,
        )

    def ahead(self, indices: Sequence[int]) -> None:
        """Fetch windows that are read next, several at once, where they are read from a store one by one."""
        found = list(self._pick(indices))
        wanted = [(shard, item.row) for shard, item in found]
        self._reader.ahead(wanted + [(given_file(shard), row) for shard, row in wanted if self.draws])

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Latents of several items of one shape, stacked: (B, C, T, h, w) float32."""
        return torch.stack([self._reader.tensors(s)["latents"][item.row].float() for s, item in self._pick(indices)])

    def record(self, index: int) -> ClipRecord:
        """What is known of item `index`, without reading its latents."""
        return self._located[index][1].record

    def shape(self, index: int) -> tuple[int, int, int]:
        """(T, h, w) of the latents of item `index`, without reading it."""
        _, frames, height, width = self._located[index][1].shape
        return frames, height, width

    def groups(self) -> list[list[int]]:
        """The indices by shape of the latents, longest first: only items of one group can share a batch."""
        return by_shape([item.shape[1:] for _, item in self._located])

    @cached_property
    def captions(self) -> tuple[str, ...]:
        """The distinct captions of the whole cache (both sides), sorted: what a trainer has to embed once."""
        records = [item.record for _, item in self._everything]
        found = {caption for r in records for caption in (r.caption, *r.alternatives) if caption is not None}
        return tuple(sorted(found))

    @cached_property
    def statistics(self) -> LatentStatistics:
        """Per-channel statistics of the whole cache: from the header, or measured where its encoding never ended."""
        stored = self.header.get("statistics")
        if stored is None:
            return measure_statistics(self.cache, read_index(self.cache), self._reader)
        return LatentStatistics(torch.tensor(stored["mean"]), torch.tensor(stored["std"]), stored["items"])

    def verdicts(self) -> list[Verdict]:
        """One verdict per source file: how many of its windows are cached, and on which side it lies."""
        counts: dict[tuple[str, str], int] = {}
        for _, item in self._everything:
            file = (item.record.source, item.record.source_hash)
            counts[file] = counts.get(file, 0) + 1
        return [
            Verdict(source, count, "heldout" if source_hash in self._heldout else "train")
            for (source, source_hash), count in counts.items()
        ]

    def notes(self) -> list[str]:
        """Whether the cache is whole."""
        if self.header.get("complete"):
            return []
        return [f"the encoding of {self.config.path} was interrupted: {len(self._everything)} items so far"]

    def _pick(self, indices: Sequence[int]) -> Iterator[tuple[str, CacheItem]]:
        return (self._located[i] for i in indices)


def measure_statistics(
    path: Path, entries: Sequence[ShardEntry], reader: ShardReader | None = None
) -> LatentStatistics:
    """Per-channel mean and standard deviation over all indexed items, one shard in memory at a time."""
    reader = ShardReader(path) if reader is None else reader
    total: Tensor | None = None
    squares: Tensor | None = None
    elements = items = 0
    for entry in entries:
        latents = reader.tensors(entry.shard)["latents"]
        for item in entry.items:
            z = latents[item.row].double().flatten(1)
            total = z.sum(1) if total is None else total + z.sum(1)
            squares = z.square().sum(1) if squares is None else squares + z.square().sum(1)
            elements += z.shape[1]
            items += 1
    if total is None or squares is None:
        raise InputError(f"{path}: the cache holds no finished shard")
    mean = total / elements
    std = (squares / elements - mean.square()).clamp_min(0).sqrt()
    return LatentStatistics(mean.float(), std.float(), items)
