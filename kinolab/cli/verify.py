"""`kinolab verify`: whether what was stored is still what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def verify(
    paths: Annotated[
        list[Path], typer.Argument(help="Runs, caches, models, results, videos, or folders that hold them.")
    ],
) -> None:
    """Read everything and compare it with the sums that were stored with it.

    Each damaged file gets a line that says what to do. Files that people edit, and files of older versions, which hold
    no sums, get a note. Exit status 0 where all is whole, 2 where something is damaged.
    """
    from kinolab.errors import InputError
    from kinolab.verify import verify as look

    damaged = notes = 0
    for path in paths:
        for finding in look(path):
            typer.echo(f"{'damaged' if finding.damaged else 'note':8} {finding}")
            damaged += finding.damaged
            notes += not finding.damaged
    if damaged:
        raise InputError(f"{damaged} damaged; what to do stands beside each")
    typer.echo(f"whole: {', '.join(map(str, paths))}" + (f" ({notes} notes)" if notes else ""))
