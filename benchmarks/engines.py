"""`python -m benchmarks.engines`: clips a second by number of workers, the share an engine loses, memory per worker.

Rates are of toy clips: a check reads files (few different ones under many names, each read anew), an encoding makes its
clips and encodes them by a small autoencoder. The share lost is 1 - rate / (workers x the rate of this process alone),
so it holds what the machine lacks of processors, too; that of one worker is the engine's own. A curation scores files
that all differ (scores are kept by content) by every signal that needs no model, and writes no clip.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.measure import machine
from kinolab.contracts.engine import Each, Engine
from kinolab.contracts.events import Silent
from kinolab.data import FolderConfig, FolderSource, WorldSource, WorldSourceConfig, encode_to_cache
from kinolab.data.curation.run import curate
from kinolab.data.curation.settings import CurateConfig
from kinolab.engines import ENGINES
from kinolab.toyworld.clips import WorldConfig
from kinolab.video import write
from tests.data.clip_files import MeanAutoencoder
from tests.engines.actors import actors_here

FILES = 50
"""Different files that are checked."""


@dataclass(frozen=True)
class Row:
    """One measurement; memory: MB of the largest worker after a tenth, a half and all of the clips."""

    work: str
    engine: str
    workers: int
    clips: int
    seconds: float
    rate: float
    lost: float | None
    memory: tuple[float, ...]


class Watching(Silent):
    """Looks at the memory of workers on the way."""

    def __init__(self, total: int) -> None:
        self.total, self.memory = total, list[float]()
        self.first = 0.0

    def progress(self, done: int, total: int) -> None:
        """At a tenth, a half, and the end; and when the first piece is done."""
        self.first = self.first or time.perf_counter()
        wanted = (0.1, 0.5, 0.98)
        if len(self.memory) < len(wanted) and done >= wanted[len(self.memory)] * self.total:
            self.memory.append(max(map(resident, workers()), default=resident(os.getpid())))


def workers() -> list[int]:
    """The processes of the engines' workers."""
    return [child.pid for child in multiprocessing.active_children() if child.pid is not None] + actors_here()


def resident(process: int) -> float:
    """MB of memory that a process holds."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return 0.0


def check(room: Path, count: int, engine: Engine | None, events: Silent) -> None:
    """Scan files."""
    config = FolderConfig(path=room / "clips", frames=5, size=32, split="all", index="none")
    assert len(FolderSource(config, engine=engine, events=events).verdicts()) == count


def encode(room: Path, count: int, engine: Engine | None, events: Silent) -> None:
    """Encode toy clips."""
    source = WorldSource(WorldSourceConfig(world=WorldConfig(size=32, frames=5), count=count))
    with TemporaryDirectory(dir=room) as out:
        encode_to_cache(source, MeanAutoencoder(), Path(out), shard_size=64, batch=8, engine=engine, events=events)


def score(room: Path, count: int, engine: Engine | None, events: Silent) -> None:
    """Score files."""
    with TemporaryDirectory(dir=room) as out:
        assert curate(room / "raw", Path(out), CurateConfig(), engine=engine, dry=True, events=events).videos == count


def make(room: Path, clips: dict[str, int]) -> None:
    """Write the files: of the check, a few toy clips, each under many names; of the curation, as many as asked."""
    source = WorldSource(WorldSourceConfig(world=WorldConfig(size=32, frames=9), count=max(FILES, clips["curate"])))
    for folder, different in (("clips", FILES), ("raw", clips["curate"])):
        for index in range(different):
            pixels = ((source[index].video.permute(1, 2, 3, 0) + 1) * 127.5).round().to(torch.uint8)
            write(room / folder / f"{index:05d}.mkv", pixels.numpy(), fps=8, lossless=True)
    for index in range(FILES, clips["check"]):
        os.link(room / "clips" / f"{index % FILES:05d}.mkv", room / "clips" / f"{index:05d}.mkv")


def begun(name: str, workers: int) -> Engine:
    """An engine of so many workers, of one too (`engine_of` takes this process there)."""
    engine = ENGINES.get(name)(workers)
    engine.give_each(Each())
    return engine


def measure(name: str, counts: Sequence[int], clips: dict[str, int], room: Path) -> list[Row]:
    """Every kind of work by every number of workers of an engine; 0 = this process alone."""
    rows, alone = list[Row](), dict[str, float]()
    for work, run in (("check", check), ("curate", score), ("encode", encode)):
        for workers in (0, *counts):
            engine = begun(name, workers) if workers else None
            events, began = Watching(clips[work]), time.perf_counter()
            run(room, clips[work], engine, events)
            seconds = time.perf_counter() - began
            rate = clips[work] / seconds
            alone.setdefault(work, rate)
            lost = 1 - rate / (workers * alone[work]) if workers else None
            row = Row(work, name if workers else "-", workers, clips[work], seconds, rate, lost, tuple(events.memory))
            rows.append(row)
            print(line(row), flush=True)
    return rows


def line(row: Row) -> str:
    """A row of the table."""
    lost = "" if row.lost is None else f"{100 * row.lost:.0f}%"
    memory = " / ".join(f"{value:.0f}" for value in row.memory)
    who = f"{row.workers} x {row.engine}" if row.workers else "this process"
    return f"| {row.work} | {who} | {row.clips:,} | {row.rate:.0f} | {lost} | {memory} |"


def main() -> None:
    """Measure, print the table, and write it as JSON where that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("--engine", action="append", help="embedded, ray; may be named again")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--check", type=int, default=10_000, help="files that are checked")
    parser.add_argument("--curate", type=int, default=1_000, help="files that are scored")
    parser.add_argument("--encode", type=int, default=10_000, help="clips that are encoded")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{machine()}\n| work | by | clips | clips/s | lost | MB of the largest worker |\n|---|---|---:|---:|---:|---|"
    )
    with TemporaryDirectory(prefix="engines-") as room:
        clips = {"check": options.check, "curate": options.curate, "encode": options.encode}
        make(Path(room), clips)
        rows = [
            row for name in options.engine or ["embedded"] for row in measure(name, options.workers, clips, Path(room))
        ]
    if options.out is not None:
        options.out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
