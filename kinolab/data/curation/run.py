"""A curation from a source to a training set: scores, the table, the decision, the clips.

DIR/.scores/      the traces, by content; what is there is never read again
DIR/table.jsonl   every clip with every number, whether it is kept, and why not
DIR/curation.json the protocols and their hashes, the thresholds and what they cost, the videos that failed
DIR/...           the clips (`writing.py`)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from kinolab.contracts.engine import Done, Engine, Task
from kinolab.contracts.events import Events, Listener, events_of, proceed
from kinolab.data.curation import parquet
from kinolab.data.curation.deciding import Decision, decide
from kinolab.data.curation.items import Item, find_items
from kinolab.data.curation.scoring import Outcome, score_group
from kinolab.data.curation.settings import Chosen, CurateConfig, chosen, plain
from kinolab.data.curation.shelves import InStore, Shelf
from kinolab.data.curation.table import Row, make_table
from kinolab.data.curation.writing import METADATA, Written, clear_others, may_be_ours, write_folder, write_shards
from kinolab.data.places import LARGE
from kinolab.errors import InputError
from kinolab.runtime import leftovers
from kinolab.runtime.files import make_folder, remove, write_text
from kinolab.runtime.hashes import json_sha256
from kinolab.runtime.locks import held
from kinolab.runtime.logs import Appender
from kinolab.runtime.paths import real, visible
from kinolab.runtime.reading import json_lines, read_text
from kinolab.runtime.records import write_record
from kinolab.runtime.remote import Mirror, address, is_remote
from kinolab.runtime.summed import summed

STORE, INDEX, TABLE, RECORD = ".scores", ".scores/files.jsonl", "table.jsonl", "curation.json"
GROUP = 4
"""Videos that one process is handed at once."""
MOST = 2**31
"""Bytes of the list of contents."""


@dataclass(frozen=True)
class CurateSummary:
    """What a curation did.

    videos, read: how many there are, and of how many frames were read now; problems: (video, what is wrong with it);
    decision: the table with its reasons; written: of the clips, none on a dry run.
    """

    videos: int
    read: int
    problems: tuple[tuple[str, str], ...]
    decision: Decision
    written: Written | None
    notes: tuple[str, ...]
    protocol: str


def curate(
    source: Path,
    out: Path,
    config: CurateConfig,
    *,
    engine: Engine | None = None,
    dry: bool = False,
    events: Listener = None,
) -> CurateSummary:
    """Score what is not scored yet, write the table, decide, and write the clips that are kept.

    Args:
        source: a folder, a video, a list or a table of paths, .tar or .parquet files, or a folder of those; of a store
            too, as s3://bucket/raw.
        out: the folder of the curation; made where it is missing. Of one in a store the scores stay on this machine,
            clips are put there as they are written, and what names them at the end.
        config: signals, cutting, thresholds and output.
        engine: whose workers score; none = this process. What is written is the same, byte for byte.
        dry: write the table and no clip.
        events: counts videos, then clips; a stopped call keeps the scores and clips that are whole.

    Raises:
        InputError: where the source is missing or empty, a setting can't be met, `out` lies in the source or holds
            something else, another process is at work there, or no video can be read.
    """
    if not is_remote(out):
        return _curate(source, Shelf(out), config, engine, dry, events_of(events))
    if engine is not None and engine.place:
        raise InputError(f"--out {address(out)}: a cluster's workers need a folder that they share, or take --workers")
    if is_remote(source) and f"{address(out)}/".startswith(f"{address(source)}/"):
        raise InputError(f"{address(out)}: lies inside {address(source)}; choose a folder beside it")
    mirror = Mirror(out)
    with mirror.writing():
        listed = mirror.listed(new=True)
        shelf = InStore(mirror, listed)
        if RECORD not in listed and not (mirror.path / STORE).is_dir() and not all(map(may_be_ours, listed)):
            raise InputError(f"{address(out)}: holds other files and no curation; choose an empty or new folder")
        for name in mirror.here():
            if name not in listed:  # of a call that was cut off
                remove(mirror.path / name)
        mirror.fetch(lambda name: PurePosixPath(name).suffix.lower() not in LARGE, new=True)
        make_folder(mirror.path / STORE)
        summary = _curate(source, shelf, config, engine, dry, events_of(events))
        shelf.finish((METADATA, TABLE, RECORD))
    return summary


def _curate(
    source: Path, shelf: Shelf, config: CurateConfig, engine: Engine | None, dry: bool, told: Events
) -> CurateSummary:
    """The same in a folder of this machine."""
    signals, out = chosen(config), shelf.out
    if config.output.format == "parquet" and not dry:
        parquet.need_pyarrow()
    _check_out(out)
    if not is_remote(source) and source.is_dir() and real(out).is_relative_to(real(source)):
        raise InputError(f"{out}: lies inside {source}; choose a folder beside it")
    found = find_items(source, config.disk_gb)
    make_folder(out / STORE)
    with held(out / STORE / "lock", f"{out}: another kinolab data curate is at work there"):
        outcomes = _score(found.items, signals, out, engine, told)
        good = [
            (k, item, o.content) for k, (item, o) in enumerate(zip(found.items, outcomes, strict=True)) if o.content
        ]
        problems = tuple((o.name, o.problem) for o in outcomes if o.problem is not None)
        if not good:
            raise InputError(f"{source}: none of {len(outcomes)} videos can be read; {': '.join(problems[0])}")
        rows = make_table(good, out / STORE, signals, config.clips)
        decision = decide(rows, config.keep)
        protocols = _protocols(signals, config)
        _write_table(out, decision, protocols, problems, config)
        told.wrote(out / TABLE, "table")
        written = None
        if not dry:
            gone = clear_others(shelf, config.output.format)
            write = write_folder if config.output.format == "folder" else write_shards
            written = write(decision.kept, shelf, config.output, told)
            written = replace(written, removed=written.removed + gone)
    read = sum(o.read for o in outcomes)
    return CurateSummary(len(outcomes), read, problems, decision, written, found.notes, protocols["hash"])


def _check_out(out: Path) -> None:
    """Refuse a folder that holds something else."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: a file; expected a folder for the curation")
    if out.is_dir() and visible(out) and not (out / STORE).is_dir():
        raise InputError(f"{out}: holds other files and no curation; choose an empty or new folder")


def _score(items: Sequence[Item], signals: Chosen, out: Path, engine: Engine | None, events: Events) -> list[Outcome]:
    """The outcome of every video, in order; what is known from before is looked up and not read."""
    known = _known(out / INDEX)
    signatures = [_signature(item) for item in items]
    pieces = [(number, (item, known.get(signatures[number]))) for number, item in enumerate(items)]
    groups = [tuple(pieces[k : k + GROUP]) for k in range(0, len(pieces), GROUP)]
    job, found = ScoreJob(plain(signals), out / STORE), dict[int, Outcome]()
    tasks = [Task(json_sha256([signatures[number] for number, _ in group])[:24], group) for group in groups]
    with Appender(out / INDEX, durable=False) as index:
        for done in _here(job, tasks, events) if engine is None else engine.run(job, tasks, events):
            results = dict(done.value or ())
            for left in done.left:
                item = left.part[1][0]
                results[left.part[0]] = Outcome(item.name, "", problem=f"ended every process that read it ({left.why})")
            found |= results
            for outcome in results.values():
                if outcome.content and known.get(outcome.signature) != outcome.content:
                    index.write(summed({"signature": outcome.signature, "content": outcome.content}))
            events.progress(len(found), len(items))
    if len(found) < len(items):
        proceed(events)
    outcomes = [found[k] for k in range(len(items))]
    _put_in_order(out, outcomes)
    return outcomes


Piece = tuple[int, tuple[Item, str | None]]


@dataclass(frozen=True)
class ScoreJob:
    """The scoring of videos, as a job of an engine: a part is a video with its number, and its content if known."""

    settings: Mapping[str, Mapping[str, Any]]
    store: Path

    def worker(self, number: int) -> ScoreJob:
        """Itself."""
        return self

    def run(self, task: Task) -> list[tuple[int, Outcome]]:
        """The outcomes of a group, with the numbers of its videos."""
        outcomes = score_group([piece for _, piece in task.parts], self.settings, self.store)
        return list(zip([number for number, _ in task.parts], outcomes, strict=True))

    def probe(self, part: Piece) -> None:
        """Score one: what is written is a function of the video alone."""
        score_group([part[1]], self.settings, self.store)

    def name(self, part: Piece) -> str:
        """The video's own."""
        return part[1][0].name


def _here(job: ScoreJob, tasks: Sequence[Task], events: Events) -> Iterator[Done]:
    """The tasks by this process; ends early, between two, where that is asked."""
    for task in tasks:
        if events.stopping:
            return
        yield Done(task, job.run(task))


def _put_in_order(out: Path, outcomes: Sequence[Outcome]) -> None:
    """Give the list of contents the order of the videos, whoever scored which when; those of other videos behind them.

    What workers left that were killed is cleared away.
    """
    known = {o.signature: o.content for o in outcomes if o.content}
    known |= {
        signature: content for signature, content in sorted(_known(out / INDEX).items()) if signature not in known
    }
    lines = [summed({"signature": signature, "content": content}) for signature, content in known.items()]
    text = "".join(f"{line}\n" for line in lines)
    if text != read_text(out / INDEX, MOST):
        write_text(out / INDEX, text)
    for folder in (out / STORE, *visible(out / STORE)):
        leftovers.clean(folder)


def _signature(item: Item) -> str:
    try:
        return item.signature()
    except OSError:
        return ""


def _known(path: Path) -> dict[str, str]:
    """The contents of files by their signatures, as an earlier call found them."""
    if not path.is_file():
        return {}
    found = {}
    for _, row in json_lines(path, damaged="skip"):
        if isinstance(row, dict) and isinstance(row.get("signature"), str) and isinstance(row.get("content"), str):
            found[row["signature"]] = row["content"]
    return found


def _protocols(signals: Chosen, config: CurateConfig) -> dict[str, Any]:
    """The protocol and hash of every signal, and one hash of all that decides the numbers of the table."""
    each = {name: {"hash": signal.hash(), "protocol": signal.protocol()} for name, signal in signals.items()}
    cut = config.clips.model_dump(mode="json")
    whole = json_sha256({"signals": {n: e["hash"] for n, e in each.items()}, "clips": cut})[:16]
    return {"hash": whole, "signals": each, "clips": cut}


def _write_table(
    out: Path,
    decision: Decision,
    protocols: dict[str, Any],
    problems: Sequence[tuple[str, str | None]],
    config: CurateConfig,
) -> None:
    """The table, and the record of how it came about."""
    rows: list[Row] = list(decision.rows)
    lines = (json.dumps(row.values() | {"protocol": protocols["hash"]}, ensure_ascii=False) for row in rows)
    write_text(out / TABLE, "".join(f"{line}\n" for line in lines))
    values = {
        "protocols": protocols,
        "keep": {name: bounds.model_dump(mode="json") for name, bounds in config.keep.items()},
        "bounds": [str(bound) for bound in decision.bounds],
        "costs": [asdict(cost) for cost in decision.costs],
        "clips": len(rows),
        "kept": len(decision.kept),
        "output": config.output.model_dump(mode="json"),
        "problems": [{"video": name, "problem": problem} for name, problem in problems],
    }
    write_record(out / RECORD, values)
