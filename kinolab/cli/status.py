"""`kinolab status`: how far the work on a folder is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinolab.cli.options import common, show


@common()
def status(
    paths: Annotated[
        list[Path], typer.Argument(help="Folders that encode, data curate, generate or train writes; s3://... too.")
    ],
) -> None:
    """Say how far the work on folders is: done, at work, failed, rate and time left.

    From the folders alone, so it can be asked from any machine that sees them, while the work goes on or after it was
    killed.
    """
    from kinolab.status import status as look

    found = [look(path) for path in paths]
    show(found, [line for each in found for line in each.lines])
