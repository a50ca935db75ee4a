"""Captions of clips by a command, a server or a model that the user names, in a text beside each clip.

What was said of a content is kept with the hash of who was asked and how, so that a call that was interrupted goes on
and the same clip under another name is not asked about again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinolab.contracts.events import Events, Listener, advance, events_of
from kinolab.data.curation.captioners import AskError, Captioner
from kinolab.data.curation.writing import METADATA, beside
from kinolab.data.scan import find_clips, hash_source
from kinolab.errors import InputError
from kinolab.runtime.files import write_text
from kinolab.runtime.hashes import json_sha256
from kinolab.runtime.lines import one_line
from kinolab.runtime.locks import held
from kinolab.runtime.logs import Appender
from kinolab.runtime.reading import json_lines
from kinolab.runtime.summed import summed
from kinolab.runtime.text import read_text

KEPT = ".captions.jsonl"
"""In the folder: what was said of each content, one line each."""
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
    folder: Path, captioner: Captioner, *, overwrite: bool = False, workers: int = 1, events: Listener = None
) -> CaptionSummary:
    """Write a caption beside every clip of a folder that has none; into the folder's metadata.jsonl too.

    Args:
        folder: of clips, such as `kinolab data curate` writes.
        captioner: who is asked.
        overwrite: replace captions that somebody else wrote.
        workers: clips that are asked about at once, where the captioner takes that.
        events: counts clips; a stopped call keeps what was said.

    Raises:
        InputError: where there is no clip, another process is at work there, or the captioner stops answering.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of clips")
    names = find_clips(folder)[0]
    if not names:
        raise InputError(f"{folder}: no clips in it; caption a folder of clips, and curate that into shards")
    captioner.check()
    told, protocol = events_of(events), json_sha256(captioner.protocol())[:16]
    with held(folder / ".captions.lock", f"{folder}: another kinolab data caption is at work there"):
        said = _said(folder / KEPT, protocol)
        own = set(_said(folder / KEPT, None).values())
        tasks: list[tuple[str, str]] = []
        others = known = 0
        for name in names:
            path = _beside(folder, name)
            before = " ".join(read_text(path).split()) if path.is_file() else ""
            if before and before not in own and not overwrite:
                others += 1
                continue
            content = hash_source(folder / name)
            if content in said:
                known += 1
                if before != said[content]:
                    write_text(path, said[content] + "\n")
            else:
                tasks.append((name, content))
        asked, failed = _ask_all(folder, tasks, captioner, workers, protocol, told)
        _fill_metadata(folder)
    return CaptionSummary(asked, known, others, tuple(failed))


def _beside(folder: Path, name: str) -> Path:
    return (folder / name).with_suffix(".txt")


def _said(path: Path, protocol: str | None) -> dict[str, str]:
    """What was said of each content, by this captioner alone where one is named."""
    if not path.is_file():
        return {}
    rows = (row for _, row in json_lines(path, damaged="skip") if isinstance(row, dict))
    return {
        str(row.get("content")) if protocol else f"{row.get('content')}-{row.get('protocol')}": str(row.get("caption"))
        for row in rows
        if protocol in (None, row.get("protocol"))
    }


def _ask_all(
    folder: Path, tasks: Sequence[tuple[str, str]], captioner: Captioner, workers: int, protocol: str, events: Events
) -> tuple[int, list[str]]:
    """Ask about each clip, and write what is said at once; how many were captioned, and what failed.

    Raises:
        InputError: where nothing comes back of several clips in a row.
    """
    asked, failed, lost = 0, list[str](), 0
    with Appender(folder / KEPT) as kept:
        for done, (name, content, found) in enumerate(_answers(folder, tasks, captioner, workers)):
            if isinstance(found, str):
                kept.write(summed({"content": content, "protocol": protocol, "caption": found}))
                write_text(_beside(folder, name), found + "\n")
                events.wrote(_beside(folder, name), "caption")
                asked, lost = asked + 1, 0
            else:
                failed.append(f"{name}: {found}")
                lost = lost + 1 if found.gone else 0
                if lost >= LOST or (found.gone and len(failed) == len(tasks)):
                    raise InputError(f"{captioner}: {found}; {asked} clips are captioned, run it again to go on")
            advance(events, done + 1, len(tasks))
    return asked, failed


def _answers(
    folder: Path, tasks: Sequence[tuple[str, str]], captioner: Captioner, workers: int
) -> Iterator[tuple[str, str, str | AskError]]:
    """Name, content and caption (or what went wrong) of each clip, in order; at most `workers` are asked at once."""

    def one(task: tuple[str, str]) -> tuple[str, str, str | AskError]:
        try:
            text = " ".join(captioner.ask(folder / task[0]).split())
            return *task, text or AskError("said nothing")
        except AskError as error:
            return *task, error
        except InputError as error:
            return *task, AskError(one_line(error, 200))

    if workers == 1 or not captioner.many:
        yield from map(one, tasks)
        return
    with ThreadPoolExecutor(workers) as pool:
        for begin in range(0, len(tasks), workers):  # no further ahead, so that a stop loses nothing that was paid for
            yield from pool.map(one, tasks[begin : begin + workers])


def _fill_metadata(folder: Path) -> None:
    """Put captions into the rows of a curated folder's metadata that have none."""
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
