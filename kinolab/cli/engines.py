"""Options of commands whose work any number of workers may do, and how such a command ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinolab.cli.options import on_error, real_number
from kinolab.errors import InputError
from kinolab.runtime.interrupts import POISONED

if TYPE_CHECKING:
    from kinolab.contracts.engine import Engine
    from kinolab.contracts.work import WorkConfig
    from kinolab.contracts.working import Working
    from kinolab.runtime.remote import Mirror

SHOWN = 20
"""Clips that are named, of more the number."""

ENGINE_HELP = "Who does the work: embedded (this machine), ray (a Ray begun here), or ray:HOST:PORT."
WORKERS_HELP = "Processes that do the work; default 1, of Ray as many as it has processors for."
EACH_HELP = (
    "What each worker is given, as cpus=2,gpus=0.5,seconds=600: threads (Ray: processors), GPUs of Ray's, and seconds "
    "for a clip (default 1800) before it counts as hanging and another tries again."
)
EngineName = Annotated[str, typer.Option("--engine", help=ENGINE_HELP)]
"""Of a command; hand it to `take_engine`."""
EngineOrRecipe = Annotated[
    str | None, typer.Option("--engine", help=f"{ENGINE_HELP} Default: as `work` says, in the recipe or the settings.")
]
"""Of a command with a recipe or settings that may say it; hand it to `take_engine` with their `work`."""
Workers = Annotated[int | None, typer.Option(min=1, help=WORKERS_HELP)]
"""Of a command; hand it to `take_engine`."""
EachGiven = Annotated[str | None, typer.Option("--each", help=EACH_HELP)]
"""Of a command; hand it to `take_engine`."""


def take_engine(
    engine: str | None, workers: int | None, each: str | None = None, work: WorkConfig | None = None
) -> Engine | None:
    """The engine that options name; none = this process does the work.

    work: what a recipe or settings say, which options win over.

    Raises:
        InputError: for an unknown name, a place where none is, or what no worker can be given.
    """
    told: Each | None = None
    if work is not None:
        engine, workers, told = work.with_options(engine, workers, None if each is None else each_values(each))
    engine = engine or "embedded"
    if engine == "embedded" and workers in (None, 1):  # the most frequent case, and torch is not needed for it
        if each is not None:
            raise InputError(f"--each {each}: is for workers; expected --workers of at least 2, or --engine ray")
        return None
    from kinolab.contracts.engine import Each
    from kinolab.engines import engine_of

    return engine_of(engine, workers, told if work is not None or each is None else Each(**each_values(each)))


def each_values(text: str) -> dict[str, Any]:
    """What `--each` says, by the names of `Each`.

    Raises:
        InputError: for another name, or a number that can't be.
    """
    from kinolab.contracts.engine import MOST

    fits: dict[str, Callable[[float], bool]] = {
        "cpus": lambda value: 1 <= value <= MOST and value == int(value),
        "gpus": lambda value: 0 <= value <= 1 or (value <= MOST and value == int(value)),
        "seconds": lambda value: value > 0,
    }
    known: dict[str, Any] = {}
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        with suppress(ValueError):
            value = real_number(number)
            if name in fits and name not in known and fits[name](value):
                known[name] = int(value) if name == "cpus" else value
                continue
        raise InputError(
            f"--each {part.strip() or text}: expected cpus=N, gpus=N (or a share of one, as 0.5) or seconds=N, "
            "each once, with commas between"
        )
    return known


def kept_in(folder: Path, what: str, unit: str, engine: Engine | None, store: Mirror | None = None) -> Working:
    """Events that keep in a folder how far the work on it is, for `kinolab status`.

    store: that the folder is the mirror of.
    """
    from kinolab.contracts.working import FILE, Working

    put = None if store is None else partial(store.put, FILE)
    return Working(folder, what, unit, 1 if engine is None else engine.workers, put=put)


def ends_with(poison: Sequence[str]) -> None:
    """Name the clips that ended every worker, and end with the status for that, where there are any."""
    for name in poison[:SHOWN]:
        on_error(f"left out, it ended every worker that tried it: {name}")
    if len(poison) > SHOWN:
        on_error(f"and {len(poison) - SHOWN} more")
    if poison:
        raise typer.Exit(POISONED)
