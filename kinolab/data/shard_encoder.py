"""Encoding windows into one shard of a latent cache, and the same as tasks of an engine's workers.

A shard is a fixed group of windows, named by their keys; whoever encodes it, in batches of the same windows, writes the
same bytes under the same name. Its line in the index is written by `kinolab.data.encode` alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from kinolab.contracts.engine import Task
from kinolab.contracts.events import Events, Silent
from kinolab.contracts.examples import ClipRecord, ClipSource, Example
from kinolab.data.cache import CacheItem, ShardEntry
from kinolab.data.cache_plan import Draws
from kinolab.data.shard_reader import given_file
from kinolab.errors import InputError
from kinolab.runtime.devices import choose
from kinolab.runtime.hashes import sha256
from kinolab.runtime.precision import PrecisionPolicy, autocast
from kinolab.runtime.remote import Mirror
from kinolab.runtime.weights import write_weights

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


class ShardEncoder:
    """Reads, encodes and writes one shard at a time; the next batch is read while one is encoded.

    decoders: threads that read.
    """

    def __init__(
        self,
        source: ClipSource,
        autoencoder: Encoder,
        batch: int,
        dtype: Stored,
        keep_posterior: bool,
        precision: PrecisionPolicy,
        device: torch.device,
        decoders: int = 1,
    ) -> None:
        self.source, self.autoencoder, self.batch, self.decoders = source, autoencoder, batch, decoders
        self.dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        self.keep_posterior, self.precision, self.device = keep_posterior, precision, device

    def groups(self, shard_size: int) -> Iterator[tuple[int, ...]]:
        """The windows of each shard of the whole source: neighbours of one shape, at most `shard_size` and 64 MiB."""
        for group in self.source.groups():
            if group:
                yield from _batched(group, self._most(group[0], shard_size))

    def packs(self, indices: Iterable[int], shard_size: int) -> Iterator[tuple[int, ...]]:
        """The same of some windows alone: what is missing of shards that are there in part."""
        wanted = set(indices)
        for group in self.source.groups() if wanted else ():
            found = [i for i in group if i in wanted]
            if found:
                yield from _batched(found, self._most(found[0], shard_size))

    def _most(self, index: int, shard_size: int) -> int:
        """How many windows of the shape of one fit into a shard."""
        record = self.source.record(index)
        c, t, h, w = self.autoencoder.spec.latent_shape(record.frames, *(record.size or self.source.size))
        size = c * t * h * w * self.dtype.itemsize * (2 if self.keep_posterior else 1)
        return max(1, min(shard_size, SHARD_BYTES // size))

    def write(
        self, out: Path, keys: Mapping[int, str], indices: Sequence[int], events: Events
    ) -> tuple[ShardEntry | None, list[str]]:
        """Encode the windows `indices` into one shard; its index entry and the windows that could not be read.

        keys: of each window, its item's.

        Asked to stop, the shard ends with the batch that is at work: nothing encoded is lost.
        """
        parts: dict[str, list[Tensor]] = {}
        items: list[CacheItem] = []
        for examples in _ahead(_batched(self.walk(indices), self.batch)):
            latents = self.encode(torch.stack([example.video for _, example in examples]))
            for name, tensor in latents.items():
                parts.setdefault(name, []).append(tensor)
            for (index, example), z in zip(examples, latents["latents"], strict=True):
                record = _annotated(self.source.record(index), example)
                c, t, h, w = z.shape
                items.append(CacheItem(keys[index], len(items), record, (c, t, h, w)))
            events.progress(len(items), len(indices))
            if events.stopping:
                break
        read = {item.key for item in items}
        failed = [] if events.stopping else [window_name(self.source, i) for i in indices if keys[i] not in read]
        if not items:
            return None, failed
        name = sha256("".join(item.key for item in items))[:24] + ".safetensors"
        write_weights(
            out / "shards" / name, {key: torch.cat(value).contiguous() for key, value in parts.items()}, rows=True
        )
        return ShardEntry(name, tuple(items)), failed

    def walk(self, indices: Sequence[int]) -> Iterator[tuple[int, Example]]:
        """The source's `walk`, by as many threads as there are decoders; the same windows in the same order."""
        if self.decoders == 1:
            yield from self.source.walk(indices)
            return
        pool, waiting = ThreadPoolExecutor(self.decoders), deque[Future[list[tuple[int, Example]]]]()
        try:
            for piece in self._pieces(indices):
                waiting.append(pool.submit(lambda part: list(self.source.walk(part)), piece))
                if len(waiting) > self.decoders:  # no further ahead: what is read is held in memory
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _pieces(self, indices: Sequence[int]) -> Iterator[list[int]]:
        """Runs of windows of one file, which are read in one pass, of a batch at most."""
        piece: list[int] = []
        for index in indices:
            record = self.source.record
            if piece and (len(piece) == self.batch or record(index).source != record(piece[-1]).source):
                yield piece
                piece = []
            piece.append(index)
        if piece:
            yield piece

    @torch.no_grad()
    def draw(self, draws: Draws, indices: Sequence[int], keys: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Given latents (N, D, C, T, H, W) and masks (N, D, R, T, H, W) of the windows `indices`, as stored.

        Raises:
            InputError: where a window can't be read any more.
        """
        given, masks, left = [], [], dict(zip(indices, keys, strict=True))
        for examples in _ahead(_batched(self.walk(indices), self.batch)):
            video = torch.stack([example.video for _, example in examples]).to(self.device)
            with autocast(self.precision, self.device):
                latents, mask = draws.encode(self.autoencoder, video, [left.pop(i) for i, _ in examples])
            given.append(latents.to("cpu", self.dtype))
            masks.append(mask.to("cpu", self.dtype))
        if left:
            raise InputError(f"{self.source.record(min(left)).source}: can't be read any more; run with --update")
        return torch.cat(given), torch.cat(masks)

    @torch.no_grad()
    def encode(self, video: Tensor) -> dict[str, Tensor]:
        """Clips (B, 3, T, H, W) -> their latents (B, C, T', h, w), and logvar where it is kept, as stored."""
        with autocast(self.precision, self.device):
            posterior = self.autoencoder.encode(video.to(self.device))
        wanted = {"latents": posterior.mean} | ({"logvar": posterior.logvar} if self.keep_posterior else {})
        stored = {name: tensor.to("cpu", self.dtype) for name, tensor in wanted.items()}
        if not bool(torch.isfinite(stored["latents"]).all()):
            raise InputError("the autoencoder gave latents that are not finite; try --precision float32")
        return stored

    def write_draws(self, out: Path, entry: ShardEntry, draws: Draws, where: Mapping[str, int]) -> None:
        """Write the file of masked draws beside a shard; where: of each key, the window's number in the source."""
        items = entry.items
        pairs = self.draw(draws, [where[item.key] for item in items], [item.key for item in items])
        rows = 1 + max(item.row for item in items)  # a row whose item was dropped by --update is never read
        parts = {}
        for name, part in zip(("given", "mask"), pairs, strict=True):
            parts[name] = torch.zeros(rows, *part.shape[1:], dtype=part.dtype)
            parts[name][[item.row for item in items]] = part
        write_weights(out / "shards" / given_file(entry.shard), parts, rows=True)


@dataclass(frozen=True)
class EncodeJob:
    """The encoding of a source, as a job of an engine: a task is a shard, a part the number and key of a window."""

    source: ClipSource
    autoencoder: Encoder
    out: Path
    batch: int
    dtype: Stored
    keep_posterior: bool
    precision: PrecisionPolicy
    device: str
    store: Mirror | None = None
    """Where shards are put, of a cache in a store; `out` is its mirror on each machine."""
    decoders: int = 1
    """Threads that read for each worker."""

    def worker(self, number: int) -> EncodeWorker:
        """One that computes on this job's device; where it has several accelerators, each worker takes its own."""
        device = choose(self.device)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", number % torch.cuda.device_count())
        network: Any = self.autoencoder
        if hasattr(network, "to"):
            network = network.to(device)
        return EncodeWorker(
            ShardEncoder(
                self.source, network, self.batch, self.dtype, self.keep_posterior, self.precision, device, self.decoders
            ),
            self.out if self.store is None else self.store.path,
            self.store,
        )

    def name(self, part: tuple[int, str]) -> str:
        """File and time of a window."""
        return window_name(self.source, part[0])


@dataclass(frozen=True)
class EncodeWorker:
    """Encodes shards."""

    encoder: ShardEncoder
    out: Path
    store: Mirror | None

    def run(self, task: Task) -> tuple[ShardEntry | None, list[str]]:
        """Write a shard; its line for the index, and the windows that could not be read."""
        entry, failed = self.encoder.write(self.out, dict(task.parts), [index for index, _ in task.parts], Silent())
        if self.store is not None and entry is not None:
            self.store.put(f"shards/{entry.shard}")
        return entry, failed

    def probe(self, part: tuple[int, str]) -> None:
        """Encode one window."""
        for _, example in self.encoder.source.walk([part[0]]):
            self.encoder.encode(example.video[None])


@dataclass(frozen=True)
class DrawJob:
    """The masked draws of a cache, as a job of an engine: a task is a shard, a part an item of it and its number."""

    encoding: EncodeJob
    draws: Draws
    windows: Mapping[str, int]
    """How many each shard has."""

    @property
    def device(self) -> str:
        """Where it computes."""
        return self.encoding.device

    @property
    def decoders(self) -> int:
        """Threads that read for each worker."""
        return self.encoding.decoders

    def worker(self, number: int) -> DrawWorker:
        """As of the encoding."""
        return DrawWorker(self.encoding.worker(number), self.draws, self.windows)

    def name(self, part: tuple[int, CacheItem]) -> str:
        """File and time of a window."""
        return window_name(self.encoding.source, part[0])


@dataclass(frozen=True)
class DrawWorker:
    """Draws the masks of shards."""

    encoding: EncodeWorker
    draws: Draws
    windows: Mapping[str, int]

    def run(self, task: Task) -> None:
        """Write the draws of the shard that the task is called by; nothing where windows were left out of it, as the
        next encoding would take their rows for drawn."""
        if len(task.parts) < self.windows[task.key]:
            return
        entry = ShardEntry(task.key, tuple(item for _, item in task.parts))
        where = {item.key: index for index, item in task.parts}
        self.encoding.encoder.write_draws(self.encoding.out, entry, self.draws, where)
        if self.encoding.store is not None:
            self.encoding.store.put(f"shards/{given_file(entry.shard)}")

    def probe(self, part: tuple[int, CacheItem]) -> None:
        """Draw one window's."""
        self.encoding.encoder.draw(self.draws, [part[0]], [part[1].key])


def window_name(source: ClipSource, index: int) -> str:
    """What a person knows a window by: its file and time."""
    record = source.record(index)
    return f"{record.source} at {record.time_range[0]:.2f} s"


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
