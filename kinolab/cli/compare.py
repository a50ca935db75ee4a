"""`kinolab compare`: a matrix of autoencoders and denoisers, each trained and measured alike, and one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kinolab.cli.options import Device, common, say, show, take_device, watch, wrote

if TYPE_CHECKING:
    from kinolab.comparison.plan import ComparePlan
    from kinolab.comparison.run import CellState


Stage = Annotated[
    Literal["all", "encode", "train", "measure", "cost"],
    typer.Option(help="train, measure; with --cell also encode (what a denoiser trains on) and cost (time, memory)."),
]


@common(events=True)
def compare(
    plan: Annotated[Path, typer.Argument(help="The plan, a YAML file (see docs/evaluation.md).")],
    out: Annotated[Path | None, typer.Option(help="Where cells and tables go; default runs/<the plan's name>.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("-s", "--set", help="Override a field of the plan: -s data.clips.path=FOLDER.")
    ] = None,
    cell: Annotated[str | None, typer.Option(help="Run one cell only, by its id; for a cluster.")] = None,
    stage: Stage = "all",
    jobs: Annotated[int, typer.Option(min=1, help="Cells that run at once.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads of each; default torch's own.")] = None,
    device: Device = "auto",
    list_cells: Annotated[
        bool, typer.Option("--list", help="List the cells and how far they are; run nothing.")
    ] = False,
    table: Annotated[bool, typer.Option("--table", help="Write the tables of what is measured; run nothing.")] = False,
    markdown: Annotated[Path | None, typer.Option(help="Also write the Markdown table here.")] = None,
) -> None:
    """Train and measure every cell of a plan under one split and one budget; write one table as Markdown, CSV and HTML.

    A cell that is done is not done again; an interrupted one goes on from its last checkpoint. Each cell runs in a
    process of its own; on a laptop two cells of one thread each go faster than one of two.
    """
    from kinolab.comparison.matrix import find_cell
    from kinolab.comparison.pages import write_tables
    from kinolab.comparison.plan import load_plan
    from kinolab.comparison.run import compare as run_all
    from kinolab.comparison.run import states
    from kinolab.errors import InputError

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    loaded = load_plan(plan, setting or [])
    folder = out if out is not None else Path("runs") / loaded.name
    if list_cells:
        _list(states(loaded, folder))
        return
    if not table and stage != "train":  # a training says by itself where it runs
        where = take_device(device)
        device = device if device == "auto" else str(where)  # of cells that train, auto is what the plan says
    if cell is not None:
        _one_cell(loaded, plan, cell, folder, setting or [], stage=stage, threads=threads, device=device)
        [reached] = [state for state in states(loaded, folder) if state.cell == find_cell(loaded, cell)]
        show({"cells": [_cell(reached)], "tables": []}, [])
        return
    if stage in ("encode", "cost"):
        raise InputError(f"--stage {stage} is for one cell; name it by --cell (`kinolab compare PLAN --list`)")
    failed, measure = list[str](), stage != "train"
    if not table:
        with watch("comparing", "cells", notes=say) as events:
            failed = run_all(
                plan, folder, setting or [], jobs=jobs, threads=threads, device=device, measure=measure, events=events
            )
    tables = write_tables(loaded, folder, markdown) if measure else []
    for path in tables:
        wrote(path, "table")
    show({"cells": [_cell(state) for state in states(loaded, folder)], "tables": tables}, tables)
    if failed:
        raise InputError(f"{len(failed)} cells failed, the first: {failed[0]}")


def _list(known: Sequence[CellState]) -> None:
    """Show how far each cell is, and what is missing for any."""
    cells = [_cell(state) for state in known]
    show({"cells": cells, "tables": []}, [f"{cell['state']:9} {cell['id']}" for cell in cells])
    for problem in dict.fromkeys(state.problem for state in known if state.problem is not None):
        typer.echo(f"missing: {problem}", err=True)


def _one_cell(
    loaded: ComparePlan,
    plan: Path,
    name: str,
    folder: Path,
    setting: list[str],
    *,
    stage: str,
    threads: int | None,
    device: str,
) -> None:
    """Run a cell, or a stage of it, in this process."""
    from kinolab.comparison.cells import encode_cell, train_cell
    from kinolab.comparison.costs import cost_cell
    from kinolab.comparison.matrix import find_cell
    from kinolab.comparison.measure import measure_cell
    from kinolab.comparison.run import run_cell

    chosen = find_cell(loaded, name)
    with watch(chosen.id, "steps" if stage == "train" else "", notes=say) as events:
        if stage == "all":
            run_cell(plan, chosen, folder, setting, threads=threads, device=device, events=events)
        elif stage == "encode" and chosen.kind == "denoiser":
            encode_cell(loaded, chosen, folder, device=device)
        elif stage == "train":
            train_cell(loaded, chosen, folder, events, device=device)
        elif stage == "measure":
            measure_cell(loaded, chosen, folder, device=device)
        elif stage == "cost":
            cost_cell(loaded, chosen, folder, device=device)


def _cell(state: CellState) -> dict[str, str | None]:
    """A cell's name and how far it is."""
    done = "measured" if state.measured else "trained" if state.trained else "to do"
    return {"id": state.cell.id, "state": done if state.problem is None else "missing", "problem": state.problem}
