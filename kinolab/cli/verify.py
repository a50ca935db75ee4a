"""`kinolab verify`: whether what was stored is still what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kinolab.cli.options import common, say, show


@common()
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

    found: list[dict[str, Any]] = []
    for path in paths:
        for finding in look(path):
            say(f"{'damaged' if finding.damaged else 'note':8} {finding}")
            found.append({**vars(finding), "damaged": finding.damaged})
    damaged = sum(finding["damaged"] for finding in found)
    notes = len(found) - damaged
    whole = f"whole: {', '.join(map(str, paths))}" + (f" ({notes} notes)" if notes else "")
    show({"whole": not damaged, "findings": found}, [] if damaged else [whole])
    if damaged:
        raise InputError(f"{damaged} damaged; what to do stands beside each")
