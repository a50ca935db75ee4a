"""`kinolab animate`: a video from one image or several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kinolab.cli.given import Overlap, given_command
from kinolab.cli.options import whole_numbers


@given_command
def animate(
    images: Annotated[list[Path], typer.Argument(help="One image or more, of any size and origin.")],
    at: Annotated[
        str | None,
        typer.Option(help="Frame of each image, as 0,-1; default the first, or spread from first to last."),
    ] = None,
    overlap: Overlap = None,
) -> dict[str, Any]:
    """Generate the video that an image begins (or ends, --at=-1), or that goes from image to image."""
    return {"task": "animate", "images": images, "at": whole_numbers(at, "--at"), "overlap": overlap}
