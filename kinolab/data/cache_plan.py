"""What a latent cache shall hold, and what of one that is there stays; `kinolab.data.encode` writes the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from kinolab.contracts.examples import ClipSource
from kinolab.data.cache import (
    FORMAT,
    CacheItem,
    ShardEntry,
    format_entry,
    item_key,
    measure_statistics,
    read_header,
    read_index,
)
from kinolab.data.shard_reader import GIVEN_ENDING, given_file
from kinolab.errors import InputError
from kinolab.runtime import files
from kinolab.runtime.hashes import canonical
from kinolab.runtime.leftovers import remove
from kinolab.runtime.reading import through_json
from kinolab.runtime.summed import summed


class Draws(Protocol):
    """Masks to be encoded beside the clips (`kinolab.tasks.CachedDraws`)."""

    def describe(self) -> dict[str, object]:
        """What the draws depend on."""
        ...

    def encode(self, autoencoder: Any, video: Tensor, keys: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Clips and their keys -> given latents (B, D, C, T, H, W) and masks (B, D, R, T, H, W)."""
        ...


class CachePlan:
    """What the cache shall hold: the key of every window of the source, and the header's fields."""

    def __init__(
        self, source: ClipSource, autoencoder: str, encoding: Mapping[str, object], draws: Draws | None
    ) -> None:
        self.autoencoder, self.encoding = autoencoder, dict(encoding)
        self.draws = None if draws is None else through_json(draws.describe())
        self.transform = through_json(dict(source.transform()), default=str)
        self.classes = list(source.classes)
        self.records = [source.record(i) for i in range(len(source))]
        self.keys = [item_key(r, self.transform, autoencoder, encoding) for r in self.records]
        self.by_key = dict(zip(self.keys, self.records, strict=True))

    def made_by(self) -> dict[str, object]:
        """The header's fields that must agree for a cache to be continued."""
        return {"autoencoder": self.autoencoder, "transform": self.transform, "encoding": self.encoding}


def reconcile(out: Path, plan: CachePlan, update: bool) -> tuple[list[ShardEntry], int]:
    """Compare an existing cache with the plan, and bring its index in line: the shards to keep, the items dropped.

    Captions and labels that changed are taken over; they are not part of a latent's address.
    """
    if not (out / "cache.json").exists():
        if (out / "index.jsonl").exists():
            raise InputError(f"{out}: an index without cache.json; delete the folder and encode again")
        write_header(out, plan, [], complete=False)
        return [], 0
    header, entries = read_header(out), read_index(out)
    _check_same(out, header, plan, entries, update)
    if plan.draws != header.get("draws"):
        for file in (out / "shards").glob(f"*{GIVEN_ENDING}"):
            remove(file)
    present = [entry for entry in entries if (out / "shards" / entry.shard).is_file()]
    kept = [replace(entry, items=tuple(_refreshed(entry.items, plan, drop=update))) for entry in present]
    kept = [entry for entry in kept if entry.items]
    removed = sum(len(e.items) for e in entries) - sum(len(e.items) for e in kept)
    write_header(out, plan, [], complete=False)
    files.write_text(out / "index.jsonl", "".join(map(format_entry, kept)))
    names = {name for entry in kept for name in (entry.shard, given_file(entry.shard))}
    for file in (out / "shards").glob("*"):
        if file.name not in names:
            remove(file)
    return kept, removed


def write_header(out: Path, plan: CachePlan, entries: Sequence[ShardEntry], complete: bool) -> None:
    """Write cache.json; the statistics of latents are measured over all entries."""
    from kinolab import __version__

    statistics = None
    if entries:
        measured = measure_statistics(out, entries)
        statistics = {"mean": measured.mean.tolist(), "std": measured.std.tolist(), "items": measured.items}
    header = {
        "format": FORMAT,
        "kinolab": __version__,
        **plan.made_by(),
        "classes": plan.classes,
        "complete": complete,
        "draws": plan.draws,
        "statistics": statistics,
    }
    files.write_text(out / "cache.json", summed(header, indent=2) + "\n")


def _check_same(
    out: Path, header: Mapping[str, Any], plan: CachePlan, entries: Sequence[ShardEntry], update: bool
) -> None:
    """Raises InputError where the cache was made differently, or a source file changed since, and `update` is off."""
    if plan.draws is None and header.get("draws") is not None:
        raise InputError(f"{out}: holds draws of masks ({_short(header['draws'])}); add --tasks with the same tasks")
    gone_keys = [item.record.source for e in entries for item in e.items if item.key not in plan.by_key]
    if plan.draws is not None and gone_keys and not update:
        raise InputError(
            f"{out}: masks can't be drawn for {gone_keys[0]}, which is not in this source; encode into another folder, "
            "or add --update to drop what is gone"
        )
    if update:
        return
    advice = "encode into another folder, or add --update to encode again what changed"
    for field, value in plan.made_by().items():
        if header.get(field) != value:
            was, now = _short(header.get(field)), _short(value)
            raise InputError(f"{out}: made with another {field} ({was}, now {now}); {advice}")
    had = header.get("draws")
    if plan.draws is not None and had is not None and had != plan.draws:
        raise InputError(f"{out}: made with other draws of masks ({_short(had)}); {advice}")
    hashes = {record.source: record.source_hash for record in plan.records}
    items = [item for entry in entries for item in entry.items]
    gone = [item.record for item in items if item.key not in plan.by_key]
    changed = sorted({r.source for r in gone if hashes.get(r.source, r.source_hash) != r.source_hash})
    recut = sorted({r.source for r in gone if hashes.get(r.source) == r.source_hash})
    for names, what in ((changed, "changed since it was encoded"), (recut, "is now cut into other windows")):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise InputError(f"{out}: {names[0]}{more} {what}; {advice}")
    if gone and header.get("classes") != plan.classes:
        raise InputError(f"{out}: made with other classes, and holds files that are not in this source; {advice}")


def _refreshed(items: Iterable[CacheItem], plan: CachePlan, drop: bool) -> Iterator[CacheItem]:
    """Items with the source's current captions and labels; without those the source no longer has, if `drop`."""
    for item in items:
        record = plan.by_key.get(item.key)
        if record is None:
            if not drop:
                yield item
        elif record.annotated:
            yield replace(item, record=record)
        else:
            yield item


def _short(value: object) -> str:
    text = value if isinstance(value, str) else canonical(value)
    return text[:12] if isinstance(value, str) else text
