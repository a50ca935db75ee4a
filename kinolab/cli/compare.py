"""`kinolab compare`: a matrix of autoencoders and denoisers, each trained and measured alike, and one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kinolab.cli.options import Device, say, take_device

if TYPE_CHECKING:
    from kinolab.comparison.run import CellState


def compare(
    plan: Annotated[Path, typer.Argument(help="The plan, a YAML file (see docs/evaluation.md).")],
    out: Annotated[Path | None, typer.Option(help="Where cells and tables go; default runs/<the plan's name>.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("-s", "--set", help="Override a field of the plan: -s data.clips.path=FOLDER.")
    ] = None,
    cell: Annotated[str | None, typer.Option(help="Run one cell only, by its id; for a cluster.")] = None,
    stage: Annotated[
        Literal["all", "encode", "train", "measure", "cost"],
        typer.Option(
            help="train, measure; with --cell also encode (what a denoiser trains on) and cost (time, memory)."
        ),
    ] = "all",
    jobs: Annotated[int, typer.Option(min=1, help="Cells that run at once.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads of each; default torch's own.")] = None,
    device: Device = "auto",
    list_cells: Annotated[
        bool, typer.Option("--list", help="List the cells and how far they are; run nothing.")
    ] = False,
    table: Annotated[bool, typer.Option("--table", help="Write the tables of what is measured; run nothing.")] = False,
    markdown: Annotated[Path | None, typer.Option(help="Also write the Markdown table here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --list: print a JSON list of the cells.")] = False,
) -> None:
    """Train and measure every cell of a plan under one split and one budget; write one table as Markdown, CSV and HTML.

    A cell that is done is not done again; an interrupted one goes on from its last checkpoint. Each cell runs in a
    process of its own; on a laptop two cells of one thread each go faster than one of two.
    """
    from kinolab.cli.data import progress_bar
    from kinolab.comparison.cells import encode_cell, find_cell, train_cell
    from kinolab.comparison.costs import cost_cell
    from kinolab.comparison.measure import measure_cell
    from kinolab.comparison.pages import write_tables
    from kinolab.comparison.plan import load_plan
    from kinolab.comparison.run import compare as run_all
    from kinolab.comparison.run import run_cell, states
    from kinolab.errors import InputError

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    loaded = load_plan(plan, setting or [])
    folder = out if out is not None else Path("runs") / loaded.name
    if list_cells:
        list_states(states(loaded, folder), as_json)
        return
    if as_json:
        raise InputError("--json is for --list; the tables stand in the folder, table.csv among them")
    if not table and stage != "train":  # a training says by itself where it runs
        where = take_device(device)
        device = device if device == "auto" else str(where)  # of cells that train, auto is what the plan says
    if cell is not None:
        chosen = find_cell(loaded, cell)
        if stage == "all":
            run_cell(plan, chosen, folder, setting or [], threads=threads, device=device, say=say)
        elif stage == "encode" and chosen.kind == "denoiser":
            encode_cell(loaded, chosen, folder, device=device)
        elif stage == "train":
            train_cell(loaded, chosen, folder, typer.echo, device=device)
        elif stage == "measure":
            measure_cell(loaded, chosen, folder, device=device)
        elif stage == "cost":
            cost_cell(loaded, chosen, folder, device=device)
        return
    if stage in ("encode", "cost"):
        raise InputError(f"--stage {stage} is for one cell; name it by --cell (`kinolab compare PLAN --list`)")
    failed: list[str] = []
    if not table:
        measure = stage != "train"
        with progress_bar("comparing", "cells") as advance:
            failed = run_all(
                plan, folder, setting or [], jobs=jobs, threads=threads, device=device, measure=measure,
                progress=advance, say=say,
            )  # fmt: skip
    if stage != "train":
        for path in write_tables(loaded, folder, markdown):
            typer.echo(path)
    if failed:
        raise InputError(f"{len(failed)} cells failed, the first: {failed[0]}")


def list_states(known: Sequence[CellState], as_json: bool) -> None:
    """How far the cells of a plan are, a line or a JSON object each."""
    words = {
        s.cell.id: "missing" if s.problem else "measured" if s.measured else "trained" if s.trained else "to do"
        for s in known
    }
    if as_json:
        cells = [{"cell": s.cell.id, "state": words[s.cell.id], "problem": s.problem} for s in known]
        typer.echo(json.dumps(cells, indent=1))
        return
    for name, word in words.items():
        typer.echo(f"{word:9} {name}")
    for problem in dict.fromkeys(state.problem for state in known if state.problem is not None):
        typer.echo(f"missing: {problem}", err=True)
