"""Writing the latent cache: resumable after a kill, content-addressed, in bounded memory. Its format: `cache.py`.

Items are encoded in fixed groups, one group per shard, in the source's order. A shard is written aside, flushed to
disk and renamed before its line is appended to the index, so at any moment the index names finished shards only, and
an interrupted encoding continues with the same groups (and so the same batches, and the same values) as one that was
not interrupted. An engine's workers write shards in any order; at the end the index has the order of one process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from pydantic import BaseModel

from kinolab.contracts.engine import Engine, Left, Task
from kinolab.contracts.events import Events, Listener, Share, advance, events_of, proceed
from kinolab.contracts.examples import ClipSource
from kinolab.data.cache import ShardEntry, format_entry, read_header
from kinolab.data.cache_plan import CachePlan, Draws, reconcile, write_header
from kinolab.data.shard_encoder import DrawJob, EncodeJob, Encoder, ShardEncoder, Stored
from kinolab.data.shard_reader import given_file
from kinolab.errors import InputError
from kinolab.runtime import files, leftovers
from kinolab.runtime.devices import choose, device_of
from kinolab.runtime.hashes import Sha256, canonical, sha256
from kinolab.runtime.locks import held
from kinolab.runtime.logs import Appender
from kinolab.runtime.paths import visible
from kinolab.runtime.precision import PrecisionPolicy, resolve
from kinolab.runtime.remote import Mirror
from kinolab.runtime.weights import read_weights


@dataclass(frozen=True)
class EncodeSummary:
    """What an encoding did: windows encoded now, found in the cache, dropped from it, and not readable.

    poison: windows that ended every worker that tried them, and how; they are among the unreadable.
    """

    encoded: int
    present: int
    removed: int
    unreadable: tuple[str, ...]
    items: int
    bytes: int
    poison: tuple[str, ...] = ()

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
    engine: Engine | None = None,
    store: Mirror | None = None,
    decoders: int = 1,
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
        engine: whose workers encode; none = this process. The cache is the same, byte for byte.
        store: the folder of a store that `out` is the mirror of, where the workers put their shards.
        decoders: threads that read windows for each process that encodes; the cache is the same.

    Raises:
        InputError: where `out` holds something else, another process is writing it, or it was made from other
            inputs or by another autoencoder and `update` is off; nothing is changed then.
    """
    if shard_size < 1 or batch < 1:
        raise InputError(f"expected shard_size and batch of at least 1, got {shard_size} and {batch}")
    where, told = device_of(autoencoder) if device is None else choose(device), events_of(events)
    # Chosen once: workers that measure for themselves could choose differently.
    settled: PrecisionPolicy = "bfloat16" if resolve(precision, where) == torch.bfloat16 else "float32"
    encoding = {"dtype": dtype, "precision": settled, "posterior": keep_posterior}
    with _locked(out):
        plan = CachePlan(source, autoencoder_hash(autoencoder), encoding, draws)
        unfinished = not (out / "cache.json").exists() or not read_header(out).get("complete")
        kept, removed = reconcile(out, plan, update)
        job = EncodeJob(source, autoencoder, out, batch, dtype, keep_posterior, settled, str(where), store, decoders)
        encoder = ShardEncoder(source, autoencoder, batch, dtype, keep_posterior, settled, where, decoders)
        work = _Encoding(out, plan, kept, encoder, told, engine, job)
        missing = work.missing()
        work.run(missing, shard_size, draws, in_order=not missing and not unfinished)
        write_header(out, plan, kept, complete=True)
    return work.summary(len(missing), removed)


@dataclass
class _Encoding:
    """An encoding on its way.

    kept: the lines of the index, to which those of new shards are added.
    """

    out: Path
    plan: CachePlan
    kept: list[ShardEntry]
    encoder: ShardEncoder
    events: Events
    engine: Engine | None
    job: EncodeJob
    unreadable: list[str] = field(default_factory=list)
    poison: list[str] = field(default_factory=list)

    def summary(self, missing: int, removed: int) -> EncodeSummary:
        """What was done, of so many windows that were missing."""
        items = sum(len(entry.items) for entry in self.kept)
        size = sum((self.out / "shards" / entry.shard).stat().st_size for entry in self.kept)
        there, bad = len(self.plan.keys) - missing, tuple(self.unreadable)
        return EncodeSummary(missing - len(bad), there, removed, bad, items, size, tuple(self.poison))

    def missing(self) -> list[int]:
        """The windows that the cache lacks."""
        present = {item.key for entry in self.kept for item in entry.items}
        return [i for i, key in enumerate(self.plan.keys) if key not in present]

    def run(self, missing: Sequence[int], shard_size: int, draws: Draws | None, in_order: bool) -> None:
        """Write what is missing; in_order: the index is in order already."""
        self.encode(missing, shard_size)
        if not self.kept:
            total = len(self.plan.keys)
            raise InputError(f"{self.out}: nothing was encoded; none of {total} windows could be read")
        if not in_order:
            self.put_in_order()
        if draws is not None:
            self.draw(draws)
        if self.engine is not None:
            leftovers.clean(self.out / "shards")  # of workers that were killed

    def encode(self, missing: Sequence[int], shard_size: int) -> None:
        """Write the shards of the windows that are missing.

        Shards that are missing whole have the windows that they would have had if nothing had been there, so it makes
        no difference which of them were written when; what is missing of others is packed together.
        """
        wanted = set(missing)
        whole = [group for group in self.encoder.groups(shard_size) if wanted.issuperset(group)]
        rest = wanted.difference(chain.from_iterable(whole))
        shards = [*whole, *self.encoder.packs(rest, shard_size)]
        total, done = len(self.plan.keys), len(self.plan.keys) - len(missing)
        if self.engine is not None:
            self._by_workers(self.engine, shards, done)
            return
        keys = dict(enumerate(self.plan.keys))
        for indices in shards:
            entry, failed = self.encoder.write(self.out, keys, indices, Share(self.events, done, len(indices), total))
            self._written(entry, failed)
            done += len(indices)
            if done < total:
                proceed(self.events)

    def _by_workers(self, engine: Engine, shards: Sequence[Sequence[int]], done: int) -> None:
        """The same by an engine's workers."""
        keys, total = self.plan.keys, len(self.plan.keys)
        tasks = [Task(sha256("".join(keys[i] for i in shard))[:24], tuple((i, keys[i]) for i in shard))
                 for shard in shards]  # fmt: skip
        for made in engine.run(self.job, tasks, self.events):
            entry, failed = (None, []) if made.value is None else made.value
            self._written(entry, failed)
            self._left_out(made.left)
            done += len(made.task.parts) + len(made.left)
            self.events.progress(done, total)

    def _written(self, entry: ShardEntry | None, failed: Sequence[str]) -> None:
        """A shard is on the disk: have the index say so."""
        self.unreadable += failed
        if entry is not None:
            if self.job.store is not None:  # its worker may have been on another machine
                self.job.store.need(f"shards/{entry.shard}")
            with Appender(self.out / "index.jsonl") as index:
                index.write(format_entry(entry))
            self.events.wrote(self.out / "shards" / entry.shard, "shard")
            self.kept.append(entry)

    def _left_out(self, left: Sequence[Left]) -> None:
        """Clips that ended their workers."""
        for each in left:
            name = self.job.name(each.part)
            self.unreadable.append(name)
            self.poison.append(f"{name} ({each.why})")

    def put_in_order(self) -> None:
        """Give the index the order in which one process writes it, whoever wrote its shards."""
        order = {self.plan.keys[i]: place for place, i in enumerate(chain.from_iterable(self.encoder.source.groups()))}
        before = list(self.kept)
        self.kept.sort(key=lambda entry: min(order.get(item.key, -1) for item in entry.items))
        if self.kept != before:
            files.write_text(self.out / "index.jsonl", "".join(map(format_entry, self.kept)))

    def draw(self, draws: Draws) -> None:
        """Write the file of masked draws beside every shard that has none yet."""
        where = {key: i for i, key in enumerate(self.plan.keys)}
        total = sum(len(entry.items) for entry in self.kept)
        done, tasks = 0, []
        for entry in self.kept:
            target = self.out / "shards" / given_file(entry.shard)
            if target.is_file():
                read_weights(
                    target, advice="delete it and run the same kinolab encode again"
                )  # latents are read for statistics
            elif self.engine is not None:
                tasks.append(Task(entry.shard, tuple((where[item.key], item) for item in entry.items)))
                continue
            else:
                self.encoder.write_draws(self.out, entry, draws, where)
            done += len(entry.items)
            advance(self.events, done, total)
        job = DrawJob(self.job, draws, {task.key: len(task.parts) for task in tasks})
        for made in self.engine.run(job, tasks, self.events) if self.engine is not None else ():
            if made.left:
                names = ", ".join(self.job.name((index, item.key)) for index, item in (e.part for e in made.left))
                raise InputError(f"{names}: ended every worker that drew its masks; take it out and run with --update")
            if self.job.store is not None:  # its worker may have been on another machine
                self.job.store.need(f"shards/{given_file(made.task.key)}")
            done += len(made.task.parts)
            self.events.progress(done, total)


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
