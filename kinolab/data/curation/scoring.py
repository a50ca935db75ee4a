"""The traces of raw videos, each kept beside its content's hash: one file of a store per video.

What is done for one video is a function of the video and the signals' settings alone, and its result is one file under
a name of its own; so it may be done anywhere, in any order, and twice, with the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kinolab import video
from kinolab.data.curate.frames import Sampled, Trace, View
from kinolab.data.curation.items import Item
from kinolab.data.curation.settings import Chosen, built
from kinolab.data.scan import hash_source
from kinolab.errors import InputError
from kinolab.runtime.filesystems import UnansweredError
from kinolab.runtime.hashes import canonical
from kinolab.runtime.lines import one_line
from kinolab.runtime.reading import parse_json
from kinolab.runtime.weights import TensorFile, write_weights

ROOM = ".unpacked"
"""Folder in the store in which a video out of an archive lies while it is read."""


@dataclass(frozen=True)
class Outcome:
    """What became of one video: its content's hash, whether it was read now, and what kept it from being read."""

    name: str
    signature: str
    content: str = ""
    read: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class Stored:
    """The traces of one video by signal, and what ended the reading early."""

    traces: Mapping[str, Trace]
    damage: str | None = None


def score_group(
    items: Sequence[tuple[Item, str | None]], settings: Mapping[str, Mapping[str, Any]], store: Path
) -> list[Outcome]:
    """Trace each video of a group, where the store has it not yet.

    Args:
        items: the videos, and the content's hash of those that are known to be as they were.
        settings: of the signals, as plain values by name.
        store: folder of the traces.
    """
    signals = _signals(canonical({name: dict(values) for name, values in settings.items()}))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same bits in however many processes; those are what goes faster
    try:
        return [score_item(item, known, signals, store) for item, known in items]
    finally:
        torch.set_num_threads(threads)


@lru_cache(maxsize=4)
def _signals(text: str) -> Chosen:
    """The signals of settings, made once in a process."""
    return built(parse_json(text.encode(), "signals"))


def score_item(item: Item, known: str | None, signals: Chosen, store: Path) -> Outcome:
    """Trace one video; whatever is wrong with it is said in the outcome."""
    signature, place = "", str(item.path)
    try:
        signature = item.signature()
        if known is not None and not _missing(store, known, signals):
            return Outcome(item.name, signature, known)
        with item.local(store / ROOM) as path:
            place = str(path)
            content = hash_source(path)
            missing = _missing(store, content, signals)
            if missing:
                traces, damage = trace(path, missing)
                _add(store, content, missing, traces, damage)
        return Outcome(item.name, signature, content, read=bool(missing))
    except UnansweredError:  # nothing about the video either
        raise
    except InputError as error:
        said = str(error).removeprefix(f"{place}: ")
        return Outcome(item.name, signature, problem=one_line(said, 300))
    except OSError as error:
        if error.errno in (28, 122):  # the disk of the store is full: nothing about the video
            raise
        return Outcome(item.name, signature, problem=one_line(error, 300))
    except Exception as error:  # of a codec or a signal, on what it never met: one clip ends no run
        return Outcome(item.name, signature, problem=f"{type(error).__name__}: {one_line(error, 300)}")


def trace(path: Path, signals: Chosen) -> tuple[dict[str, Trace], str | None]:
    """The traces of a file, by signal, in one pass over its frames; and what ended it early.

    Raises:
        InputError: where not one frame can be read.
    """
    watchers = {name: signal.watch() for name, signal in signals.items()}
    rates = {name: Sampled(signal.config.rate) for name, signal in signals.items()}
    lost: list[str] = []
    for frame in video.until_damage(video.iter_frames(path, threads=1), lost):
        view = View(frame.time, frame.image)
        for name, watcher in watchers.items():
            if rates[name].wants(frame.time):
                watcher.see(view)
    damage = one_line(lost[0].removeprefix(f"{path}: "), 300) if lost else None
    return {name: watcher.trace() for name, watcher in watchers.items()}, damage


def sidecar(store: Path, content: str) -> Path:
    """Where the traces of a content lie."""
    return store / content[:2] / f"{content}.safetensors"


def read_traces(store: Path, content: str, signals: Chosen) -> Stored:
    """What is stored of a content.

    Raises:
        InputError: where it is not there, or not all of it.
    """
    path = sidecar(store, content)
    file = TensorFile(path, "delete it and run the same command again")
    traces: dict[str, Trace] = {}
    for name, signal in signals.items():
        begin = f"{name}-{signal.trace_hash()}/"
        traces[name] = {n.removeprefix(begin): _array(file, n) for n in sorted(file.names) if n.startswith(begin)}
        if "time" not in traces[name]:
            raise InputError(f"{path}: no trace of {name}; run the same command again")
    return Stored(traces, file.metadata.get("damage"))


def _array(file: TensorFile, name: str) -> np.ndarray:
    return file.tensor(name).numpy().copy()


def _missing(store: Path, content: str, signals: Chosen) -> Chosen:
    """The signals that the store has no trace of."""
    names = _stored_names(store, content)
    return {name: signal for name, signal in signals.items() if f"{name}-{signal.trace_hash()}/time" not in names}


def _stored_names(store: Path, content: str) -> frozenset[str]:
    path = sidecar(store, content)
    if not path.is_file():
        return frozenset()
    try:
        return frozenset(TensorFile(path).names)
    except InputError:  # damaged: it is made again
        return frozenset()


def _add(store: Path, content: str, signals: Chosen, traces: Mapping[str, Trace], damage: str | None) -> None:
    """Write traces beside those that are stored already."""
    tensors: dict[str, torch.Tensor] = {}
    path = sidecar(store, content)
    if names := _stored_names(store, content):
        file = TensorFile(path)
        tensors = {name: file.tensor(name).clone() for name in sorted(names)}
    for name, columns in traces.items():
        for column, values in columns.items():
            # A copy: of a single row numpy calls any strides contiguous, and torch can't write all of them.
            tensors[f"{name}-{signals[name].trace_hash()}/{column}"] = torch.from_numpy(values.copy())
    write_weights(path, tensors, {"damage": damage} if damage else None)
