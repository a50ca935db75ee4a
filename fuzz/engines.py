"""`python -m fuzz engines`: commands whose workers and drivers are killed at random moments, on each engine.

A command is run once by one quiet process. Then it is run by an engine, and again and again a worker or the command
itself is killed (SIGKILL), after a random number of pieces; a command that was killed is given again. What it leaves
has to be what the quiet one left, byte for byte. Prints, for each command and engine, the kills, the times that the
command was given, and whether what it left is equal.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from kinolab.runtime.interrupts import POISONED
from tests.engines.actors import ACTOR
from tests.engines.folders import files_of

PATIENCE = 300.0
"""Seconds that a command may take, unless another number is asked for."""
LOOK = 0.01
VICTIMS = ("worker", "worker", "worker", "worker", "driver")
"""Who is killed, drawn; a command that was killed has to start again, which takes seconds."""
FORKED = b"multiprocessing.forkserver"
"""What the embedded engine's workers are called: as the server that they are forked from."""


@dataclass(frozen=True)
class Command:
    """A command line without its output, and how far its output is: a number that grows by one with every piece."""

    name: str
    words: tuple[str, ...]
    out: Callable[[Path], Path]
    pieces: Callable[[Path], int]


@dataclass
class Figures:
    """What became of a command that was given until so many were killed."""

    kills: Counter[str] = field(default_factory=Counter)
    given: int = 0
    rounds: int = 0
    unequal: list[str] = field(default_factory=list)


def main(words: Sequence[str]) -> int:
    """Kill, and compare; 1 where something differs."""
    parser = argparse.ArgumentParser(prog="python -m fuzz engines", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of each command on each engine")
    parser.add_argument("--engine", action="append", help="only this; may be named again")
    parser.add_argument("--command", action="append", help="only this; may be named again")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clips", type=int, default=40, help="clips, and prompts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds that a command may take")
    options = parser.parse_args(words)
    rng, wrong = Random(options.seed), 0
    print(f"{'command':10}{'engine':10}{'workers killed':>16}{'drivers killed':>16}{'given':>7}{'sets':>6}{'equal':>7}"
          f"{'seconds':>9}", flush=True)  # fmt: skip
    with TemporaryDirectory(prefix="engines-") as made:
        for command in commands(Path(made), options.clips):
            if options.command and command.name not in options.command:
                continue
            quiet = _quiet(command, Path(made) / "quiet" / command.name, options.patience)
            for engine in options.engine or ("embedded", "ray"):
                began = time.perf_counter()
                room = Path(made) / "killed"
                found = kill(command, engine, options.workers, options.kills, quiet, room, rng, options.patience)
                wrong += len(found.unequal)
                print(f"{command.name:10}{engine:10}{found.kills['worker']:16}{found.kills['driver']:16}"
                      f"{found.given:7}{found.rounds:6}{found.rounds - len(found.unequal):7}"
                      f"{time.perf_counter() - began:9.0f}", flush=True)  # fmt: skip
                for line in found.unequal:
                    print(f"    {line}", flush=True)
    return int(bool(wrong))


def commands(room: Path, count: int) -> list[Command]:
    """An encoding of clips, a curation, and a list of prompts, all small."""
    from tests.data.clip_files import write_numbered
    from tests.tiny_model import save_tiny_model

    for mark in range(count):
        write_numbered(room / "clips" / f"{mark:03d}.mkv", 9, mark=7 * mark % 250)
    save_tiny_model(room / "model")
    (room / "prompts.txt").write_text("".join(f"ball number {k}\n" for k in range(count)), encoding="utf-8")
    clips = ("encode", str(room / "clips"), "-a", str(room / "model"), "--frames", "5", "--size", "16", "--batch", "1")
    prompts = ("generate", "--prompts", str(room / "prompts.txt"), "--model", str(room / "model"), "--steps", "8")
    return [
        Command("encode", (*clips, "--shard-size", "1", "-s", "data.index=none", "--out"), lambda out: out, _shards),
        Command(
            "curate",
            ("data", "curate", str(room / "clips"), "--set", "clips.min_seconds=0.1", "--out"),
            lambda out: out,
            _scored,
        ),
        Command("generate", (*prompts, "--together", "1", "--out"), lambda out: out / "v.mkv", _videos),
    ]


def _shards(out: Path) -> int:
    index = out / "index.jsonl"
    return index.read_bytes().count(b"\n") if index.is_file() else 0


def _scored(out: Path) -> int:
    index = out / ".scores" / "files.jsonl"
    return index.read_bytes().count(b"\n") if index.is_file() else 0


def _videos(out: Path) -> int:
    return sum(1 for _ in out.glob("v-*.json"))


def _quiet(command: Command, out: Path, patience: float = PATIENCE) -> dict[str, bytes]:
    status, said = _begin(command, out, ()).wait(patience)
    if status:
        raise SystemExit(f"{command.name}: ended with {status}, and nobody killed it: {said}")
    return files_of(out)


def kill(
    command: Command,
    engine: str,
    workers: int,
    kills: int,
    quiet: dict[str, bytes],
    room: Path,
    rng: Random,
    patience: float = PATIENCE,
) -> Figures:
    """Give a command until so many kills were made, each set of output begun when the last one is whole."""
    found, options = Figures(), ("--engine", engine, "--workers", str(workers))
    while found.kills.total() < kills:
        out = room / f"{command.name}-{engine}-{found.rounds}"
        found.rounds += 1
        status = -1
        while status != 0:
            running, before = _begin(command, out, options), found.kills["worker"]
            found.given += 1
            while found.kills.total() < kills and _until(running, command, out, rng.randint(1, 4), patience):
                victim = rng.choice(VICTIMS)
                if _kill(running, victim, rng):
                    found.kills[victim] += 1
                if victim == "driver":
                    break
            status, said = running.wait(patience)
            # By chance several may be killed over one clip, which is left out until the command is given again.
            by_chance = status == POISONED and found.kills["worker"] > before
            if status not in (0, -signal.SIGKILL) and not by_chance:
                found.unequal.append(f"{out.name}: ended with {status}: {said[-300:]}")
                return found  # as it would again
        there = files_of(out)
        if there != quiet:
            names = sorted(n for n in there.keys() | quiet.keys() if there.get(n) != quiet.get(n))
            found.unequal.append(f"{out.name}: differs in {', '.join(names[:5])}")
    return found


class Running:
    """A command at work, in a session of its own."""

    def __init__(self, words: Sequence[str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kinolab", *words], stdout=file, stderr=file, start_new_session=True
            )

    def workers(self) -> list[int]:
        """The processes of its workers: those of its descendants that are called so and have no children."""
        parents, names = dict[int, int](), dict[int, bytes]()
        for place in Path("/proc").glob("[0-9]*"):
            try:
                stat = (place / "stat").read_text().rpartition(")")[2].split()
                names[int(place.name)] = (place / "cmdline").read_bytes()
            except (OSError, ValueError):
                continue
            parents[int(place.name)] = int(stat[1])
        below, found = {self.process.pid}, list[int]()
        while new := {p for p, parent in parents.items() if parent in below} - below:
            below |= new
        leaves = below - {self.process.pid} - set(parents.values())
        for process in leaves:
            actor = names[process].startswith(ACTOR)
            forked = FORKED in names[process] and FORKED in names.get(parents[process], b"")
            if actor or forked:
                found.append(process)
        return found

    def wait(self, patience: float) -> tuple[int, str]:
        """Its exit status and what it said."""
        try:
            status = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = 1
        return status, self.log.read_text(encoding="utf-8", errors="replace")


def _begin(command: Command, out: Path, options: Sequence[str]) -> Running:
    return Running([*command.words, str(command.out(out)), *options], out.with_name(f"{out.name}.log"))


def _until(running: Running, command: Command, out: Path, more: int, patience: float) -> bool:
    """Wait for so many more pieces; whether the command is still at work then."""
    wanted, deadline = command.pieces(out) + more, time.monotonic() + patience
    while running.process.poll() is None and time.monotonic() < deadline:
        if command.pieces(out) >= wanted:
            return True
        time.sleep(LOOK)
    return False


def _kill(running: Running, victim: str, rng: Random) -> bool:
    """Kill a worker or the command; whether there was one."""
    targets = [running.process.pid] if victim == "driver" else running.workers()
    if not targets:
        return False
    try:
        os.kill(rng.choice(targets), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
