"""Writing the latent cache: resumable after a kill, content-addressed, in bounded memory. Its format: `cache.py`.

Items are encoded in fixed groups, one group per shard, in the source's order. A shard is written aside, flushed to
disk and renamed before its line is appended to the index, so at any moment the index names finished shards only, and
an interrupted encoding continues with the same groups (and so the same batches, and the same values) as one that was
not interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from pydantic import BaseModel
from torch import Tensor

from kinolab.contracts.events import Events, Listener, Share, advance, events_of, proceed
from kinolab.contracts.examples import ClipRecord, ClipSource, Example
from kinolab.data.cache import CacheItem, ShardEntry, format_entry, given_file
from kinolab.data.cache_plan import CachePlan, Draws, reconcile, write_header
from kinolab.errors import InputError
from kinolab.runtime import files
from kinolab.runtime.devices import choose, device_of
from kinolab.runtime.hashes import Sha256, canonical, sha256
from kinolab.runtime.locks import held
from kinolab.runtime.logs import Appender
from kinolab.runtime.paths import visible
from kinolab.runtime.precision import PrecisionPolicy, autocast, resolve
from kinolab.runtime.weights import read_weights, write_weights

Stored = Literal["bfloat16", "float32"]
SHARD_BYTES = 64 * 2**20
Item = TypeVar("Item")


class EncoderPosterior(Protocol):
    """A posterior over latents: mean and logvar, each (B, C', T', H', W')."""

    @property
    def mean(self) -> Tensor: ...

    @property
    def logvar(self) -> Tensor: ...


class EncoderShapes(Protocol):
    """The shape rules of an autoencoder, as far as the cache needs them."""

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C', T', H', W'); raises InputError where the clip breaks a rule."""
        ...


class Encoder(Protocol):
    """What `encode_to_cache` needs of an autoencoder."""

    @property
    def spec(self) -> EncoderShapes: ...

    def encode(self, video: Tensor) -> EncoderPosterior:
        """(B, 3, T, H, W) in [-1, 1] -> posterior."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The weights, by name."""
        ...


@dataclass(frozen=True)
class EncodeSummary:
    """What an encoding did: windows encoded now, found in the cache, dropped from it, and not readable."""

    encoded: int
    present: int
    removed: int
    unreadable: tuple[str, ...]
    items: int
    bytes: int

    @property
    def line(self) -> str:
        """It in one line."""
        gone = f", {self.removed} dropped" if self.removed else ""
        size = f"{self.items} windows, {self.bytes / 1e6:.1f} MB"
        return f"{size} ({self.encoded} encoded now, {self.present} there already{gone})"


def autoencoder_hash(autoencoder: Encoder) -> str:
    """sha256 over the class, config and weights of an autoencoder: equal exactly where its latents are equal."""
    digest = Sha256().text(type(autoencoder).__name__)
    # The base class leaves `config` to each family; what has none is told apart by its weights.
    config = getattr(autoencoder, "config", None)
    if isinstance(config, BaseModel):
        digest.text(canonical(config.model_dump(mode="json")))
    for name, tensor in sorted(autoencoder.state_dict().items()):
        digest.text(f"{name}{tuple(tensor.shape)}{tensor.dtype}").tensor(tensor)
    return digest.hex()


def encode_to_cache(
    source: ClipSource,
    autoencoder: Encoder,
    out: Path,
    *,
    shard_size: int = 256,
    batch: int = 8,
    dtype: Stored = "bfloat16",
    keep_posterior: bool = False,
    precision: PrecisionPolicy = "float32",
    device: torch.device | str | None = None,
    update: bool = False,
    draws: Draws | None = None,
    events: Listener = None,
) -> EncodeSummary:
    """Encode every window of a source into the cache at `out`; what is there already is not encoded again.

    Args:
        source: windows of pixels.
        autoencoder: encodes them, in evaluation mode.
        out: the cache's folder; made where missing.
        shard_size: windows per shard, fewer where a shard would exceed 64 MiB.
        batch: windows encoded at once.
        dtype: what latents are stored in.
        keep_posterior: store the log variance too, so that training can sample the posterior.
        precision: what the autoencoder computes in.
        device: where it computes; none = where the autoencoder is.
        update: make an existing cache equal to this source and autoencoder: encode what changed, drop what is gone.
        draws: masks to encode beside every window, in files of their own; a cache that has none gets them.
        events: counts windows, once more from the start for the draws; a stopped call keeps the shards that are whole.

    Raises:
        InputError: where `out` holds something else, another process is writing it, or it was made from other
            inputs or by another autoencoder and `update` is off; nothing is changed then.
    """
    if shard_size < 1 or batch < 1:
        raise InputError(f"expected shard_size and batch of at least 1, got {shard_size} and {batch}")
    where, told = device_of(autoencoder) if device is None else choose(device), events_of(events)
    chosen = str(resolve(precision, where)).removeprefix("torch.")
    encoding = {"dtype": dtype, "precision": chosen, "posterior": keep_posterior}
    with _locked(out):
        plan = CachePlan(source, autoencoder_hash(autoencoder), encoding, draws)
        kept, removed = reconcile(out, plan, update)
        present = {item.key for entry in kept for item in entry.items}
        missing = [i for i, key in enumerate(plan.keys) if key not in present]
        encoder = _ShardEncoder(source, autoencoder, batch, dtype, keep_posterior, precision, where)
        unreadable = _encode_missing(out, plan, kept, missing, encoder, shard_size, told)
        if not kept:
            raise InputError(f"{out}: nothing was encoded; none of {len(plan.keys)} windows could be read")
        if draws is not None:
            _encode_draws(out, plan, kept, encoder, draws, told)
        write_header(out, plan, kept, complete=True)
    items = sum(len(entry.items) for entry in kept)
    size = sum((out / "shards" / entry.shard).stat().st_size for entry in kept)
    there = len(plan.keys) - len(missing)
    return EncodeSummary(len(missing) - len(unreadable), there, removed, tuple(unreadable), items, size)


def _encode_missing(
    out: Path,
    plan: CachePlan,
    kept: list[ShardEntry],
    missing: Sequence[int],
    encoder: _ShardEncoder,
    shard_size: int,
    events: Events,
) -> list[str]:
    """Write the shards of the windows that are missing, and add them to `kept`; the windows that can't be read."""
    total, unreadable = len(plan.keys), list[str]()
    done = total - len(missing)
    for indices in encoder.groups(missing, shard_size):
        entry, failed = encoder.write(out, plan, indices, Share(events, done, len(indices), total))
        unreadable += failed
        done += len(indices)
        if entry is not None:
            with Appender(out / "index.jsonl") as index:
                index.write(format_entry(entry))
            events.wrote(out / "shards" / entry.shard, "shard")
            kept.append(entry)
        if done < total:
            proceed(events)
    return unreadable


class _ShardEncoder:
    """Reads, encodes and writes one shard at a time; the next batch is read while one is encoded."""

    def __init__(
        self,
        source: ClipSource,
        autoencoder: Encoder,
        batch: int,
        dtype: Stored,
        keep_posterior: bool,
        precision: PrecisionPolicy,
        device: torch.device,
    ) -> None:
        self.source, self.autoencoder, self.batch = source, autoencoder, batch
        self.dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        self.keep_posterior, self.precision, self.device = keep_posterior, precision, device

    def groups(self, missing: Sequence[int], shard_size: int) -> Iterator[tuple[int, ...]]:
        """The windows of each shard: neighbours of one shape, at most `shard_size` and 64 MiB."""
        wanted = set(missing)
        for group in self.source.groups():
            if not group:
                continue
            record = self.source.record(group[0])
            c, t, h, w = self.autoencoder.spec.latent_shape(record.frames, *(record.size or self.source.size))
            size = c * t * h * w * self.dtype.itemsize * (2 if self.keep_posterior else 1)
            yield from _batched((i for i in group if i in wanted), max(1, min(shard_size, SHARD_BYTES // size)))

    def write(
        self, out: Path, plan: CachePlan, indices: Sequence[int], events: Events
    ) -> tuple[ShardEntry | None, list[str]]:
        """Encode the windows `indices` into one shard; its index entry and the windows that could not be read.

        Asked to stop, the shard ends with the batch that is at work: nothing encoded is lost.
        """
        parts: dict[str, list[Tensor]] = {}
        items: list[CacheItem] = []
        for examples in _ahead(_batched(self.source.walk(indices), self.batch)):
            latents = self._encode(torch.stack([example.video for _, example in examples]))
            for name, tensor in latents.items():
                parts.setdefault(name, []).append(tensor)
            for (index, example), z in zip(examples, latents["latents"], strict=True):
                record = _annotated(plan.records[index], example)
                c, t, h, w = z.shape
                items.append(CacheItem(plan.keys[index], len(items), record, (c, t, h, w)))
            events.progress(len(items), len(indices))
            if events.stopping:
                break
        read = {item.key for item in items}
        failed = [
            f"{plan.records[i].source} at {plan.records[i].time_range[0]:.2f} s"
            for i in indices
            if plan.keys[i] not in read and not events.stopping
        ]
        if not items:
            return None, failed
        name = sha256("".join(item.key for item in items))[:24] + ".safetensors"
        write_weights(out / "shards" / name, {key: torch.cat(value).contiguous() for key, value in parts.items()})
        return ShardEntry(name, tuple(items)), failed

    @torch.no_grad()
    def draw(self, draws: Draws, indices: Sequence[int], keys: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Given latents (N, D, C, T, H, W) and masks (N, D, R, T, H, W) of the windows `indices`, as stored.

        Raises:
            InputError: where a window can't be read any more.
        """
        given, masks, left = [], [], dict(zip(indices, keys, strict=True))
        for examples in _ahead(_batched(self.source.walk(indices), self.batch)):
            video = torch.stack([example.video for _, example in examples]).to(self.device)
            with autocast(self.precision, self.device):
                latents, mask = draws.encode(self.autoencoder, video, [left.pop(i) for i, _ in examples])
            given.append(latents.to("cpu", self.dtype))
            masks.append(mask.to("cpu", self.dtype))
        if left:
            raise InputError(f"{self.source.record(min(left)).source}: can't be read any more; run with --update")
        return torch.cat(given), torch.cat(masks)

    @torch.no_grad()
    def _encode(self, video: Tensor) -> dict[str, Tensor]:
        with autocast(self.precision, self.device):
            posterior = self.autoencoder.encode(video.to(self.device))
        wanted = {"latents": posterior.mean} | ({"logvar": posterior.logvar} if self.keep_posterior else {})
        stored = {name: tensor.to("cpu", self.dtype) for name, tensor in wanted.items()}
        if not bool(torch.isfinite(stored["latents"]).all()):
            raise InputError("the autoencoder gave latents that are not finite; try --precision float32")
        return stored


def _encode_draws(
    out: Path,
    plan: CachePlan,
    entries: Sequence[ShardEntry],
    encoder: _ShardEncoder,
    draws: Draws,
    events: Events,
) -> None:
    """Write the file of masked draws beside every shard that has none yet."""
    where = {key: i for i, key in enumerate(plan.keys)}
    total = sum(len(entry.items) for entry in entries)
    done = 0
    for entry in entries:
        target = out / "shards" / given_file(entry.shard)
        if target.is_file():
            read_weights(
                target, advice="delete it and run the same kinolab encode again"
            )  # latents are read for statistics
        else:
            items = entry.items
            pairs = encoder.draw(draws, [where[item.key] for item in items], [item.key for item in items])
            rows = 1 + max(item.row for item in items)  # a row whose item was dropped by --update is never read
            parts = {}
            for name, part in zip(("given", "mask"), pairs, strict=True):
                parts[name] = torch.zeros(rows, *part.shape[1:], dtype=part.dtype)
                parts[name][[item.row for item in items]] = part
            write_weights(target, parts)
        done += len(entry.items)
        advance(events, done, total)


def _annotated(record: ClipRecord, example: Example) -> ClipRecord:
    """The record with the caption and label of the example, which generated clips have only once they are made."""
    return replace(record, caption=example.caption, label=example.label, alternatives=example.alternatives)


def _batched(items: Iterable[Item], size: int) -> Iterator[tuple[Item, ...]]:
    iterator = iter(items)
    while found := tuple(islice(iterator, size)):
        yield found


def _ahead(batches: Iterator[Item]) -> Iterator[Item]:
    """The same batches, each read in another thread while the one before it is in use."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(lambda: list(islice(batches, 1)))
        while found := pending.result():
            pending = pool.submit(lambda: list(islice(batches, 1)))
            yield found[0]


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the cache's folder for writing; refuses a folder that holds something else."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: a file; expected a folder to write the latent cache in")
    strange = [f.name for f in visible(out) if f.name != "shards"]
    if strange and not (out / "cache.json").exists():
        raise InputError(f"{out}: holds other files and no cache.json; choose an empty or new folder")
    files.make_folder(out / "shards")
    with held(out / ".lock", f"{out}: another kinolab encode is writing this cache"):
        yield
