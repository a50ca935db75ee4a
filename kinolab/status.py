"""How far the work on a folder is, from the folder alone: what is kept of it, its locks, indexes and logs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kinolab.contracts.working import FILE, Kept, read_working
from kinolab.data.cache import read_header, read_index
from kinolab.errors import InputError
from kinolab.runtime.files import make_folder, scratch, write_text
from kinolab.runtime.leases import Writer
from kinolab.runtime.locks import holder, is_held
from kinolab.runtime.paths import visible
from kinolab.runtime.progress import duration
from kinolab.runtime.reading import json_lines
from kinolab.runtime.remote import Mirror, is_remote
from kinolab.training.recipe import load_recipe
from kinolab.training.state import checkpoints

State = Literal["running", "done", "stopped", "failed", "cut off"]
SILENT = 600.0
"""Seconds without a piece done after which the work of a process of another machine counts as cut off."""
RECENT = 20
"""Lines of a log that a training's rate is measured over."""
SMALL = {FILE, "cache.json", "index.jsonl", "recipe.yaml", "log.jsonl"}
"""What is read of a folder in a store."""
SAVED = re.compile(r"checkpoints/step-\d+/(state|manifest)\.json")
"""What says of a checkpoint that it is there."""


@dataclass(frozen=True)
class Status:
    """How far the work on a folder is.

    state: of work that was `stopped`, as asked, and of what was `cut off` by a kill, the same command goes on. running:
    pieces at work now, where that is known (a worker has one). failed: pieces that were left out, and `names` some of
    them. rate: pieces a second; left: seconds; None = not known.
    """

    path: Path | str
    what: str
    unit: str
    state: State
    done: int
    total: int | None
    running: int = 0
    failed: int = 0
    rate: float | None = None
    left: float | None = None
    by: str | None = None
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What can't be known of a folder in a store, and from when what is known is."""

    @property
    def lines(self) -> Iterator[str]:
        """It in words."""
        by = f" by {self.by}" if self.by and self.state == "running" else ""
        yield f"{self.path}: {self.what}, {self.state}{by}"
        of = "" if self.total is None else f" of {self.total:,}"
        share = f" ({100 * self.done / self.total:.0f}%)" if self.total else ""
        numbers = [f"{self.done:,}{of} {self.unit}{share} done"]
        numbers += [f"{self.running} at work"] if self.running else []
        numbers += [f"{self.failed} failed"]
        numbers += [] if self.rate is None else [f"{self.rate:.3g} {self.unit}/s"]
        numbers += [] if self.left is None else [f"{duration(self.left)} left"]
        yield f"  {', '.join(numbers)}"
        for name in self.names:
            yield f"  failed: {name}"
        for note in self.notes:
            yield f"  {note}"
        if self.state in ("stopped", "cut off"):
            yield "  the same command goes on from here"


@dataclass(frozen=True)
class Hold:
    """Whether somebody writes a folder, and who, as far as that can be told."""

    held: bool
    by: str | None = None
    sure: bool = True


def status(path: Path, clock: Callable[[], float] = time.time) -> Status:
    """How far the work on a folder is: a cache, a run, or any other that a command keeps its progress in.

    Of a folder in a store it is said by what is there, which whoever writes it puts once a minute.

    Raises:
        InputError: where there is no such folder, or nothing in it that says so; where a store doesn't answer.
    """
    if is_remote(path):
        return _in_store(Mirror(path), clock())
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; expected one that a command writes, such as encode --out")
    held = _locked(path)
    return _look(path, str(path), Hold(held, holder(path / ".lock") if held else None), clock())


def _look(path: Path, name: str, hold: Hold, now: float) -> Status:
    """What the files of a folder say."""
    kept = read_working(path)
    if (path / "cache.json").is_file():
        return _of_cache(path, kept, hold, now)
    if (path / "recipe.yaml").is_file():
        return _of_run(path, hold)
    if kept is None:
        raise InputError(
            f"{name}: nothing says how far the work on it is; expected a cache, a run, or a folder that encode, "
            "data curate or generate writes"
        )
    return _of_kept(path, kept, hold, now)


def _in_store(mirror: Mirror, now: float) -> Status:
    """The same of a folder in a store: by the copies of who writes it on this machine, which are ahead of the store;
    else by what is in the store, and by the object of who writes there."""
    writer = mirror.writer()
    if writer is not None and writer.lives and mirror.written_here:
        found = _look(mirror.path, mirror.url, Hold(True, str(writer)), now)
        return replace(found, path=mirror.url)
    listed = mirror.listed(new=True)
    kept = mirror.known(FILE)
    if not listed and kept is None:
        raise InputError(f"{mirror.url}: no such bucket or folder, or nothing in it")
    moments = [entry.moment / 1e9 for entry in listed.values()]
    put = max([*moments, *([kept.moment / 1e9] if kept else [])])
    hold = Hold(False) if writer is None else Hold(writer.lives, str(writer), writer.here)
    with scratch(mirror.path.parent) as room:
        for name, entry in ((FILE, kept), *listed.items()):
            if entry is not None and name in SMALL:
                mirror.get(name, entry, room / name)
            elif SAVED.fullmatch(name) or name.startswith("model/"):
                make_folder((room / name).parent)  # that it is there is all that is asked
                write_text(room / name, "")
        found = _look(room, mirror.url, hold, now)
    return replace(found, path=mirror.url, notes=tuple(_notes(found, writer, put, now)))


def _notes(found: Status, writer: Writer | None, put: float, now: float) -> Iterator[str]:
    """What is not known, and when what is known was."""
    ago = duration(max(0.0, now - put))
    if found.state == "running":
        yield f"as of {ago} ago, when something was put there last; what was done since is not known here"
    if writer is None or writer.here:
        return
    silent = duration(max(0.0, now - writer.heard))
    if writer.lives:
        known = "is heard of once a minute" if writer.note.get("renewed") else "says nothing more"
        yield (
            f"{writer} has the folder, and {known}: the last time {silent} ago; whether it still works there can't be "
            "asked from here"
        )
    else:
        yield f"{writer} had the folder, and was not heard of for {silent}"


def _of_kept(path: Path, kept: Kept, hold: Hold, now: float) -> Status:
    """What is kept, as it is now."""
    heard = not kept.process.here and now - kept.written < SILENT and hold.sure
    working = kept.outcome is None and (kept.process.lives or heard or hold.held)
    state: State = kept.outcome or ("running" if working else "cut off")
    found = Status(
        path, kept.what, kept.unit, state, kept.done, kept.total, failed=len(kept.failed), rate=kept.rate,
        names=kept.failed,
    )  # fmt: skip
    if working:
        left = None if not kept.rate else max(0.0, (kept.total - kept.done) / kept.rate - (now - kept.written))
        found = replace(found, running=min(kept.workers, kept.total - kept.done), left=left, by=_by(hold, kept))
    return found


def _of_cache(path: Path, kept: Kept | None, hold: Hold, now: float) -> Status:
    """A latent cache: its index says what is there, whatever was kept."""
    there = sum(len(entry.items) for entry in read_index(path))
    if kept is None or kept.unit != "windows":
        complete = bool(read_header(path).get("complete"))
        state: State = "running" if hold.held else "done" if complete else "cut off"
        by = hold.by if hold.held else None
        return Status(path, "encoding", "windows", state, there, there if complete else None, by=by)
    found = _of_kept(path, kept, hold, now)
    if found.state == "done":
        return replace(found, done=there, failed=max(len(kept.failed), kept.total - there))
    return replace(found, done=max(found.done, there))


def _of_run(path: Path, hold: Hold) -> Status:
    """A training: its log says how far it is, its recipe how far it goes."""
    held, log = hold.held, path / "log.jsonl"
    rows = json_lines(log, damaged="skip", constants=True) if log.is_file() else ()
    timed = [(row["step"], row["seconds"]) for _, row in rows if _is_timed(row)]
    saved = [int(folder.name.removeprefix("step-")) for folder in checkpoints(path / "checkpoints")]
    total, logged = load_recipe(path / "recipe.yaml").training.steps, timed[-1][0] if timed else 0
    finished = any(found.name == "model" for found in visible(path)) and max([logged, *saved]) >= total
    # What is logged behind the newest checkpoint is trained again where nobody trains.
    step = logged if held or finished else max([0, *saved])
    state: State = "running" if held else "done" if finished else "cut off"
    rate = None
    if len(timed) > 1:
        (first, began), (last, ended) = timed[-RECENT:][0], timed[-1]
        rate = (last - first) / (ended - began) if last > first and ended > began else None
    left = (total - step) / rate if held and rate else None
    by = hold.by if held else None
    return Status(path, "training", "steps", state, step, total, rate=rate, left=left, by=by)


def _is_timed(row: object) -> bool:
    if not isinstance(row, dict) or row.get("kind") != "train":
        return False
    return type(row.get("step")) is int and isinstance(row.get("seconds"), int | float)


def _locked(path: Path) -> bool:
    """Whether somebody holds the folder's lock; a link of that name is nobody's."""
    try:
        return is_held(path / ".lock")
    except OSError:
        return False


def _by(hold: Hold, kept: Kept) -> str:
    known = hold.by or f"process {kept.process.process}"
    return known + (f", {kept.workers} workers" if kept.workers > 1 else "")
