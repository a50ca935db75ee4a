"""Parts and their items, run within a time, each kept as soon as it is done: what is finished is not done again.

A part is a list of items; an item is a name and a function that gives a record of plain values. `results.json` in the
output folder holds all records, so a call goes on where the one before it (or the machine under it) stopped.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Record = dict[str, Any]
Say = Callable[[str], None]
FAILED = "failed"
"""The key of a record that says why an item came to nothing; such an item is tried again by the next call."""


class OutOfTimeError(Exception):
    """An item's time is over before it is done; what it has done so far is kept by itself."""


@dataclass
class Clock:
    """When a call has to be over, and until when the part in hand may work. In seconds of `time.monotonic`."""

    seconds: float
    began: float = field(default_factory=time.monotonic)
    until: float = 0.0

    def give(self, share: float) -> None:
        """Let the part in hand work until this share of the whole time (0 to 1) has passed."""
        self.until = self.began + share * self.seconds

    def left(self) -> float:
        """Seconds that the part in hand still has."""
        return self.until - time.monotonic()


@dataclass
class Place:
    """Where and how a run works.

    device: what is measured. carry: the folder that `prepare` made. out: what comes back. state: what a run needs
    again and that doesn't come back, such as checkpoints. small: sizes that only show that everything runs.
    """

    device: torch.device
    carry: Path
    out: Path
    state: Path
    small: bool
    clock: Clock
    say: Say

    def wait(self) -> None:
        """Until the device has done all that was asked of it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


Item = tuple[str, Callable[[], Record]]


@dataclass(frozen=True)
class Part:
    """A part: its share of a run's time, its items, and the table of their records."""

    name: str
    title: str
    share: float
    items: Callable[[Place], Iterable[Item]]
    table: Callable[[dict[str, Record]], tuple[list[str], list[list[str]]]]


class Results:
    """The records of all parts, in a file that is whole at any moment."""

    def __init__(self, path: Path, *earlier: Path, kept: Path | None = None) -> None:
        """earlier: files of other calls, of which the first that is there is gone on from where `path` is not.

        kept: where a copy is written too, as what comes back may be taken away between two calls.
        """
        self.path, self.kept = path, kept
        source = next((file for file in (path, *earlier) if file.exists()), None)
        self.content: dict[str, Any] = {"parts": {}, "calls": []}
        if source is not None:
            self.content = json.loads(source.read_text(encoding="utf-8"))

    def of(self, part: str) -> dict[str, Record]:
        """The records of a part by their items' names."""
        records: dict[str, Record] = self.content["parts"].setdefault(part, {})
        return records

    def done(self, part: str, item: str) -> bool:
        """Whether an item has a record that is no failure."""
        record = self.of(part).get(item)
        return record is not None and FAILED not in record

    def put(self, part: str, item: str, record: Record) -> None:
        """Keep a record."""
        self.of(part)[item] = plain(record)
        self.save()

    def save(self) -> None:
        """Write the file, and its copy, aside and give them their names."""
        text = json.dumps(self.content, indent=1, allow_nan=False) + "\n"
        for path in (self.path,) if self.kept is None else (self.path, self.kept):
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".writing-{path.name}")
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, path)


def plain(value: Any) -> Any:
    """A value as JSON can hold it: NaN and infinity by their names."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    return value


def number(value: float | str) -> str:
    """An error as a table shows it; one that is not finite has its name."""
    return value if isinstance(value, str) else f"{value:.1e}"


def run_parts(parts: Sequence[Part], place: Place, results: Results) -> bool:
    """Run what is not done yet; returns whether everything is done now.

    An item that fails is recorded with the cause, and the next one begins. A part stops when its time is over; what it
    did not use is the following parts'. A device that is lost (an illegal access, say) ends the call.
    """
    whole, total = True, sum(part.share for part in parts)
    passed = 0.0
    for part in parts:
        passed += part.share
        place.clock.give(passed / total)
        finished = _run_part(part, place, results)
        whole = finished and whole
        if not _alive(place):
            place.say(f"{place.device} is lost after {part.title}: call again, in a new process")
            return False
    return whole


def _run_part(part: Part, place: Place, results: Results) -> bool:
    whole = True
    try:
        items = list(part.items(place))
    except Exception as error:
        _failed(part, "all of it", error, place, results)
        return False
    results.of(part.name).pop("all of it", None)
    for name, make in items:
        if results.done(part.name, name):
            continue
        if place.clock.left() <= 0:
            place.say(f"{part.title}: time is over before {name}; the next call goes on there")
            return False
        begun = time.perf_counter()
        try:
            record = make()
        except OutOfTimeError as reason:
            place.say(f"{part.title}: {name}: {reason}")
            whole = False
            continue
        except Exception as error:
            _failed(part, name, error, place, results)
            whole = False
            if not _alive(place):
                return False
            continue
        results.put(part.name, name, {**record, "seconds": round(time.perf_counter() - begun, 3)})
    return whole


def _failed(part: Part, name: str, error: Exception, place: Place, results: Results) -> None:
    lines = str(error).strip().splitlines() or [""]
    results.put(part.name, name, {FAILED: f"{type(error).__name__}: {lines[0]}"[:400]})
    place.say(f"{part.title}: {name} failed: {type(error).__name__}: {lines[0]}")
    place.say("".join(traceback.format_exception(error, limit=-6)).rstrip())


def _alive(place: Place) -> bool:
    """Whether the device still answers; after an illegal access nothing does in this process."""
    try:
        place.wait()
    except RuntimeError:
        return False
    return True
