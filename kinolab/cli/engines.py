"""Options of commands whose work any number of workers may do, and how such a command ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kinolab.cli.options import on_error

if TYPE_CHECKING:
    from kinolab.contracts.engine import Engine
    from kinolab.contracts.working import Working

POISONED = 3
"""The exit status where all is done but what ended every worker that tried it."""
SHOWN = 20
"""Clips that are named, of more the number."""

ENGINE_HELP = "Who does the work: embedded (this machine), ray (a Ray begun here), or ray:HOST:PORT."
WORKERS_HELP = "Processes that do the work; default 1, of Ray as many as it has processors for."
EngineName = Annotated[str, typer.Option("--engine", help=ENGINE_HELP)]
"""Of a command; hand it to `take_engine`."""
Workers = Annotated[int | None, typer.Option(min=1, help=WORKERS_HELP)]
"""Of a command; hand it to `take_engine`."""


def take_engine(engine: str, workers: int | None) -> Engine | None:
    """The engine that options name; none = this process does the work.

    Raises:
        InputError: for an unknown name, or a place where none is.
    """
    if engine == "embedded" and workers in (None, 1):  # the most frequent case, and torch is not needed for it
        return None
    from kinolab.engines import engine_of

    return engine_of(engine, workers)


def kept_in(folder: Path, what: str, unit: str, engine: Engine | None) -> Working:
    """Events that keep in a folder how far the work on it is, for `kinolab status`."""
    from kinolab.contracts.working import Working

    return Working(folder, what, unit, 1 if engine is None else engine.workers)


def ends_with(poison: Sequence[str]) -> None:
    """Name the clips that ended every worker, and end with the status for that, where there are any."""
    for name in poison[:SHOWN]:
        on_error(f"left out, it ended every worker that tried it: {name}")
    if len(poison) > SHOWN:
        on_error(f"and {len(poison) - SHOWN} more")
    if poison:
        raise typer.Exit(POISONED)
