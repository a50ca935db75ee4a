"""Captions of clips by a command, a server or a model that the user names, in a text beside each clip.

What was said of a content is kept with the hash of who was asked and how, so that a call that was interrupted goes on
and the same clip under another name is not asked about again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinolab.contracts.engine import Engine, Task
from kinolab.contracts.events import Events, Listener, advance, events_of, proceed
from kinolab.data.curation.captioners import AskError, Captioner
from kinolab.data.curation.texts import KEPT as KEPT
from kinolab.data.curation.texts import Texts, line_of, put_in_order, said, texts_of
from kinolab.data.curation.writing import METADATA, beside
from kinolab.data.places import ClipPlace
from kinolab.errors import InputError
from kinolab.runtime.files import write_text
from kinolab.runtime.hashes import json_sha256
from kinolab.runtime.lines import one_line
from kinolab.runtime.logs import Appender
from kinolab.runtime.reading import json_lines
from kinolab.runtime.text import read_text

LOST = 3
"""Clips in a row of which nothing comes back, after which the one who is asked is taken to be gone."""


@dataclass(frozen=True)
class CaptionSummary:
    """Clips captioned now, those known from before, those with a caption of somebody else's, and those that failed."""

    asked: int
    known: int
    others: int
    failed: tuple[str, ...]


def caption(
    folder: Path,
    captioner: Captioner,
    *,
    overwrite: bool = False,
    workers: int = 1,
    engine: Engine | None = None,
    disk_gb: float | None = None,
    events: Listener = None,
) -> CaptionSummary:
    """Write a caption beside every clip of a folder that has none; into the folder's metadata.jsonl too.

    Args:
        folder: of clips, such as `kinolab data curate` writes; of a store too, as s3://bucket/set.
        captioner: who is asked.
        overwrite: replace captions that somebody else wrote.
        workers: clips that are asked about at once by threads of this process, where the captioner takes that.
        engine: whose workers ask, each about one clip at a time; none = this process. What is written is the same.
        disk_gb: of a store's clips, how much of this machine's disk they may take at once; none = 20.
        events: counts clips; a stopped call keeps what was said.

    Raises:
        InputError: where there is no clip, another process is at work there, or the captioner stops answering.
    """
    told, protocol = events_of(events), json_sha256(captioner.protocol())[:16]
    with texts_of(folder, disk_gb) as texts:
        names, kept = texts.place.names, texts.folder / KEPT
        if not names:
            raise InputError(f"{folder}: no clips in it; caption a folder of clips, and curate that into shards")
        captioner.check()
        answered, own = said(kept, protocol), set(said(kept, None).values())
        tasks, order = dict[str, list[str]](), list[str]()
        others = known = 0
        for name in names:
            proceed(told)
            path = texts.beside(name)
            before = " ".join(read_text(path).split()) if path.is_file() else ""
            if before and before not in own and not overwrite:
                others += 1
                continue
            content = texts.content(name)
            order.append(content)
            if content in answered:
                known += 1
                if before != answered[content]:
                    texts.write(name, answered[content])
            else:
                tasks.setdefault(content, []).append(name)  # copies of one content are asked about once
        job = CaptionJob(texts.place, captioner)
        pieces = [(found[0], content) for content, found in tasks.items()]
        answers = _answers(job, pieces, workers) if engine is None else _by_workers(job, pieces, protocol, engine, told)
        try:
            asked, failed = _write_all(job, texts, tasks, answers, protocol, told)
            if asked:
                put_in_order(kept, protocol, order)
        finally:
            texts.keep(now=True)
        _fill_metadata(texts)
    return CaptionSummary(asked, known, others, tuple(failed))


Piece = tuple[str, str]
"""A clip's name and its content."""
Answer = tuple[str, str, str | AskError]
"""Beside both, what was said of it, or why nothing was."""


def _write_all(
    job: CaptionJob,
    texts: Texts,
    tasks: Mapping[str, Sequence[str]],
    answers: Iterable[Answer],
    protocol: str,
    events: Events,
) -> tuple[int, list[str]]:
    """Write what is said at once; how many clips were captioned, and what failed.

    tasks: the names of the clips of each content.

    Raises:
        InputError: where nothing comes back of several clips in a row.
    """
    asked, failed, lost, done, total = 0, dict[str, str](), 0, 0, sum(map(len, tasks.values()))
    with Appender(texts.folder / KEPT) as kept:
        for _, content, found in answers:
            names = tasks[content]
            done += len(names)
            if isinstance(found, str):
                kept.write(line_of(content, protocol, found))
                for name in names:
                    events.wrote(texts.write(name, found), "caption")
                texts.keep()
                asked, lost = asked + len(names), 0
            else:
                failed |= {name: f"{name}: {found}" for name in names}
                lost = lost + 1 if found.gone else 0
                if lost >= LOST or (found.gone and len(failed) == total):
                    raise InputError(f"{job.captioner}: {found}; {asked} clips are captioned, run it again to go on")
            advance(events, done, total)
    return asked, [failed[name] for name in sorted(failed)]


@dataclass(frozen=True)
class CaptionJob:
    """The captions of a folder, as a job of an engine: a task is one clip, its part the name and the content."""

    place: ClipPlace
    captioner: Captioner

    def worker(self, number: int) -> CaptionJob:
        """Itself."""
        return self

    def run(self, task: Task) -> list[Answer]:
        """What is said of each clip of a task."""
        return [self.ask(part) for part in task.parts]

    def probe(self, part: Piece) -> None:
        """Ask about one; never needed, as tasks are of one."""
        self.ask(part)

    def name(self, part: Piece) -> str:
        """The clip's own."""
        return part[0]

    def ask(self, part: Piece) -> Answer:
        """The words, as one line."""
        try:
            with self.place.using(*part) as clip:
                text = " ".join(self.captioner.ask(clip).split())
            return *part, text or AskError("said nothing")
        except AskError as error:
            return *part, error
        except InputError as error:
            return *part, AskError(one_line(error, 200))


def _answers(job: CaptionJob, pieces: Sequence[Piece], workers: int) -> Iterator[Answer]:
    """By this process, in order; at most `workers` are asked about at once."""
    if workers == 1 or not job.captioner.many:
        yield from map(job.ask, pieces)
        return
    with ThreadPoolExecutor(workers) as pool:
        for begin in range(0, len(pieces), workers):  # no further ahead, so that a stop loses nothing that was paid for
            yield from pool.map(job.ask, pieces[begin : begin + workers])


def _by_workers(
    job: CaptionJob, pieces: Sequence[Piece], protocol: str, engine: Engine, events: Events
) -> Iterator[Answer]:
    """By an engine's workers, in any order."""
    tasks = [Task(json_sha256([content, protocol])[:24], ((name, content),)) for name, content in pieces]
    for done in engine.run(job, tasks, events):
        yield from done.value or ()
        for left in done.left:
            yield *left.part, AskError(f"ended every worker that asked about it ({left.why})")


def _fill_metadata(texts: Texts) -> None:
    """Put captions into the rows of a curated folder's metadata that have none."""
    folder = texts.folder
    path = folder / METADATA
    if not path.is_file():
        return
    rows: list[dict[str, Any]] = [row for _, row in json_lines(path) if isinstance(row, dict)]
    changed = False
    for row in rows:
        if isinstance(row.get("file_name"), str):
            text = beside(folder / row["file_name"])
            if text and row.get("text") != text:
                row["text"], changed = text, True
    if changed:
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        texts.put(path)
