"""Runs the cells of a comparison, each in a process of its own, and gathers what they found."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinolab.comparison.cells import encode_cell, is_trained, train_cell
from kinolab.comparison.costs import cost_cell, costs_first, read_cost
from kinolab.comparison.hashes import cell_hash
from kinolab.comparison.matrix import Cell, cells_of, needs
from kinolab.comparison.measure import measure_cell, read_score
from kinolab.comparison.plan import ComparePlan, load_plan
from kinolab.contracts.events import Events, Listener, events_of, proceed
from kinolab.errors import InputError
from kinolab.runtime.text import split_lines

STAGES: dict[str, Callable[..., None]] = {
    "encode": encode_cell, "train": train_cell, "measure": measure_cell, "cost": cost_cell,
}  # fmt: skip
"""What is done with a cell, in order."""


@dataclass(frozen=True)
class CellState:
    """How far a cell is."""

    cell: Cell
    trained: bool
    measured: bool
    problem: str | None = None
    """What it needs and is not there, so that nothing is known of it: clips, or weights that it starts from."""


def states(plan: ComparePlan, out: Path) -> list[CellState]:
    """How far every cell is."""
    return [_state(plan, cell, out) for cell in cells_of(plan)]


def _state(plan: ComparePlan, cell: Cell, out: Path) -> CellState:
    try:
        cell_hash(plan, cell)
    except InputError as error:
        return CellState(cell, False, False, str(error))
    return CellState(cell, is_trained(plan, cell, out), read_score(plan, cell, out) is not None)


def compare(
    path: Path,
    out: Path,
    overrides: Sequence[str] = (),
    *,
    jobs: int = 1,
    threads: int | None = None,
    device: str = "auto",
    isolate: bool = True,
    measure: bool = True,
    events: Listener = None,
) -> list[str]:
    """Run every cell that is not done; returns what failed, a line each.

    A cell waits for those it starts from; one that needs a failed one is not tried.

    Args:
        jobs: how many cells run at once; threads: processor threads of each.
        device: where they compute.
        isolate: a process for each training and each measurement, so that memory is each one's own and a crash takes
            one cell only.
        measure: train and measure, or train only.
        events: counts cells. Asked to stop, cells at work end as by Ctrl-C: a training saves first.

    Raises:
        InputError: for a plan that can't be read, or that names clips or weights which are not there.
    """
    plan, told = load_plan(path, overrides), events_of(events)
    for state in (known := states(plan, out)):
        if state.problem is not None:
            raise InputError(state.problem)
    work = _Work(plan, path, out, tuple(overrides), threads, device, isolate, measure, told)
    waiting = [s.cell for s in known if not (s.measured if measure else s.trained)]
    if len(cells_of(plan)) > len(waiting):
        told.note(f"{len(cells_of(plan)) - len(waiting)} of {len(cells_of(plan))} cells are done already")
    failed = _run_cells(work, waiting, jobs)
    proceed(told)
    if measure:
        for cell in finished_cells(plan, out):
            problem = work.stage(cell, "cost")
            if problem is not None:
                failed[cell] = f"cost: {problem}"
                told.note(f"{cell.id}: {failed[cell]}")
            proceed(told)
    return [f"{cell.id}: {problem}" for cell, problem in failed.items()]


def _run_cells(work: _Work, waiting: list[Cell], jobs: int) -> dict[Cell, str]:
    """Run cells as those that they need are finished, `jobs` at once; what failed, and why."""
    plan, told, total = work.plan, work.events, len(waiting)
    finished = {c for c in cells_of(plan) if c not in waiting}
    failed: dict[Cell, str] = {}
    running: dict[Future[str | None], Cell] = {}
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        while running or (waiting and not told.stopping):
            for cell in [c for c in waiting if any(n in failed for n in needs(plan, c))]:
                waiting.remove(cell)
                failed[cell] = "needs a cell that failed"
            ready = [c for c in waiting if all(n in finished for n in needs(plan, c))]
            for cell in [] if told.stopping else ready[: jobs - len(running)]:
                waiting.remove(cell)
                running[pool.submit(work.run, cell)] = cell
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                cell, problem = running.pop(future), future.result()
                if problem is None:
                    finished.add(cell)
                else:
                    failed[cell] = problem
                    told.note(f"{cell.id}: {problem}")
                told.progress(total - len(waiting) - len(running), total)
    return failed


def finished_cells(plan: ComparePlan, out: Path) -> list[Cell]:
    """The measured cells whose costs are to be measured and are not yet: one after the other, when all else is done."""
    return [
        s.cell for s in states(plan, out)
        if s.measured and costs_first(plan, s.cell) and read_cost(plan, s.cell, out) is None
    ]  # fmt: skip


def run_cell(
    path: Path,
    cell: Cell,
    out: Path,
    overrides: Sequence[str] = (),
    *,
    threads: int | None = None,
    device: str = "auto",
    events: Listener = None,
) -> None:
    """Train and measure one cell, each stage in a process of its own, as `compare` does with all.

    Raises:
        InputError: with what went wrong.
    """
    plan = load_plan(path, overrides)
    problem = _Work(plan, path, out, tuple(overrides), threads, device, True, True, events_of(events)).run(cell)
    if problem is not None:
        raise InputError(f"{cell.id}: {problem}")


@dataclass(frozen=True)
class _Work:
    """What a worker needs to run a cell."""

    plan: ComparePlan
    path: Path
    out: Path
    overrides: tuple[str, ...]
    threads: int | None
    device: str
    isolate: bool
    measure: bool
    events: Events

    def run(self, cell: Cell) -> str | None:
        """Train and measure a cell; says what went wrong, where something did."""
        stages = [] if is_trained(self.plan, cell, self.out) else ["encode", "train"]
        for stage in [*stages, *(["measure"] if self.measure else [])]:
            if stage == "encode" and cell.kind == "autoencoder":
                continue
            problem = self.stage(cell, stage)
            if problem is not None:
                return f"{stage}: {problem}"
        return None

    def stage(self, cell: Cell, stage: str) -> str | None:
        """Run one stage of a cell; says what went wrong, where something did."""
        self.events.note(f"{cell.id}: {stage}")
        return self._isolated(cell, stage) if self.isolate else self._here(cell, stage)

    def _here(self, cell: Cell, stage: str) -> str | None:
        try:
            STAGES[stage](self.plan, cell, self.out, device=self.device)
        except InputError as error:
            return str(error)
        return None

    def _isolated(self, cell: Cell, stage: str) -> str | None:
        """Run one stage as a command of its own; its last words where it fails."""
        command = [sys.executable, "-P", "-m", "kinolab", "compare", str(self.path), "--out", str(self.out)]
        command += ["--cell", cell.id, "--stage", stage]
        for override in self.overrides:
            command += ["-s", override]
        command += ["--device", self.device]
        command += [] if self.threads is None else ["--threads", str(self.threads)]
        done = run_command(command, self.events)
        if done.returncode == 0:
            return None
        lines = [line for line in split_lines(done.stderr) if line.strip()]
        return lines[-1].removeprefix("kinolab: ") if lines else f"ended with status {done.returncode}"


def run_command(command: Sequence[str], events: Events) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` of a command with its output kept; it is interrupted once, as by Ctrl-C, where that is asked."""
    asked = False
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        while True:
            try:
                out, said = child.communicate(timeout=0.5)
                return subprocess.CompletedProcess(command, child.returncode, out, said)
            except subprocess.TimeoutExpired:
                if events.stopping and not asked:
                    child.send_signal(signal.SIGINT)
                    asked = True


def read_scores(plan: ComparePlan, out: Path) -> dict[Cell, dict[str, Any]]:
    """The scores of every cell that has been measured."""
    found = {s.cell: read_score(plan, s.cell, out) for s in states(plan, out) if s.measured}
    return {cell: r | {"cost": read_cost(plan, cell, out)} for cell, r in found.items() if r is not None}
