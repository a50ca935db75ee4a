"""`kinolab complete`: fill in a part of a clip's picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kinolab.cli.given import Clip, Overlap, Start, given_command
from kinolab.cli.options import whole_numbers


@given_command
def complete(
    clip: Clip,
    mask: Annotated[
        Path | None, typer.Option(help="An image or a video of the mask; what is white is generated.")
    ] = None,
    box: Annotated[
        list[str] | None, typer.Option(help="LEFT,TOP,RIGHT,BOTTOM in pixels of --size, generated; repeat for more.")
    ] = None,
    start: Start = 0.0,
    overlap: Overlap = None,
) -> dict[str, Any]:
    """Generate the masked part of a clip: a resting mask, one that moves, or boxes."""
    from kinolab.errors import InputError

    boxes = [whole_numbers(text, "--box") for text in box or []]
    for corners, text in zip(boxes, box or [], strict=True):
        if len(corners) != 4:
            raise InputError(f"--box {text}: expected LEFT,TOP,RIGHT,BOTTOM, got {len(corners)} numbers")
    return {"task": "complete", "video": clip, "mask": mask, "boxes": boxes, "start": start, "overlap": overlap}
