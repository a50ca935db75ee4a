"""How far the work on a folder is, from the folder alone: what is kept of it, its locks, indexes and logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kinolab.contracts.working import Kept, read_working
from kinolab.data.cache import read_header, read_index
from kinolab.errors import InputError
from kinolab.runtime.locks import holder, is_held
from kinolab.runtime.paths import visible
from kinolab.runtime.progress import duration
from kinolab.runtime.reading import json_lines
from kinolab.training.recipe import load_recipe
from kinolab.training.state import checkpoints

State = Literal["running", "done", "stopped", "failed", "cut off"]
SILENT = 600.0
"""Seconds without a piece done after which the work of a process of another machine counts as cut off."""
RECENT = 20
"""Lines of a log that a training's rate is measured over."""


@dataclass(frozen=True)
class Status:
    """How far the work on a folder is.

    state: of work that was `stopped`, as asked, and of what was `cut off` by a kill, the same command goes on. running:
    pieces at work now, where that is known (a worker has one). failed: pieces that were left out, and `names` some of
    them. rate: pieces a second; left: seconds; None = not known.
    """

    path: Path
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
        if self.state in ("stopped", "cut off"):
            yield "  the same command goes on from here"


def status(path: Path, clock: Callable[[], float] = time.time) -> Status:
    """How far the work on a folder is: a cache, a run, or any other that a command keeps its progress in.

    Raises:
        InputError: where there is no such folder, or nothing in it that says so.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; expected one that a command writes, such as encode --out")
    kept = read_working(path)
    if (path / "cache.json").is_file():
        return _of_cache(path, kept, clock())
    if (path / "recipe.yaml").is_file():
        return _of_run(path)
    if kept is None:
        raise InputError(
            f"{path}: nothing says how far the work on it is; expected a cache, a run, or a folder that encode, "
            "data curate or generate writes"
        )
    return _of_kept(path, kept, clock())


def _of_kept(path: Path, kept: Kept, now: float) -> Status:
    """What is kept, as it is now."""
    heard = not kept.process.here and now - kept.written < SILENT
    working = kept.outcome is None and (kept.process.lives or heard or _locked(path))
    state: State = kept.outcome or ("running" if working else "cut off")
    found = Status(
        path, kept.what, kept.unit, state, kept.done, kept.total, failed=len(kept.failed), rate=kept.rate,
        names=kept.failed,
    )  # fmt: skip
    if working:
        left = None if not kept.rate else max(0.0, (kept.total - kept.done) / kept.rate - (now - kept.written))
        found = replace(found, running=min(kept.workers, kept.total - kept.done), left=left, by=_by(path, kept))
    return found


def _of_cache(path: Path, kept: Kept | None, now: float) -> Status:
    """A latent cache: its index says what is there, whatever was kept."""
    there = sum(len(entry.items) for entry in read_index(path))
    if kept is None or kept.unit != "windows":
        complete, held = bool(read_header(path).get("complete")), _locked(path)
        state: State = "running" if held else "done" if complete else "cut off"
        by = holder(path / ".lock") if held else None
        return Status(path, "encoding", "windows", state, there, there if complete else None, by=by)
    found = _of_kept(path, kept, now)
    if found.state == "done":
        return replace(found, done=there, failed=max(len(kept.failed), kept.total - there))
    return replace(found, done=max(found.done, there))


def _of_run(path: Path) -> Status:
    """A training: its log says how far it is, its recipe how far it goes."""
    held, log = _locked(path), path / "log.jsonl"
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
    by = holder(path / ".lock") if held else None
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


def _by(path: Path, kept: Kept) -> str:
    known = holder(path / ".lock") or f"process {kept.process.process}"
    return known + (f", {kept.workers} workers" if kept.workers > 1 else "")
