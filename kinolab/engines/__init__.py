"""Where the workers of a job come from, one file each (`kinolab.tables.ENGINES`); the contract: `contracts.engine`."""

from __future__ import annotations

from kinolab.contracts.engine import Each, Engine
from kinolab.errors import InputError
from kinolab.tables import ENGINES

__all__ = ["ENGINES", "engine_of"]


def engine_of(name: str = "embedded", workers: int | None = None, each: Each | None = None) -> Engine | None:
    """The engine that a person names: `embedded`, or another with the place behind a colon, as `ray:10.0.0.1:6379`.

    workers: how many; None = one of the embedded engine's, else as many as the engine has processors for.
    each: what each of them is given.

    None where one process, the one that asks, does the work.

    Raises:
        InputError: for an unknown name, a place that it doesn't know, or workers that it can't have.
        MissingExtraError: where what it is made of is not installed.
    """
    word, _, place = name.partition(":")
    kind = ENGINES.get(word)
    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers}: expected at least one")
    if word == "embedded" and not place and workers in (None, 1):
        return None
    found = kind(workers or 0, place)
    found.give_each(each or Each())
    return found
