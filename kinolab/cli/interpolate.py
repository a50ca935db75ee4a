"""`kinolab interpolate`: what lies between frames that are given."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kinolab.cli.given import Clip, Overlap, Start, given_command
from kinolab.cli.options import whole_numbers


@given_command
def interpolate(
    clip: Clip,
    insert: Annotated[int | None, typer.Option(min=1, help="New frames between each two of the clip.")] = None,
    every: Annotated[
        int | None, typer.Option(min=2, help="Give every n-th frame of the clip and generate the others.")
    ] = None,
    keyframes: Annotated[str | None, typer.Option(help="Numbers of the given frames, as 0,8,-1.")] = None,
    start: Start = 0.0,
    overlap: Overlap = None,
) -> dict[str, Any]:
    """Generate the frames between given ones: new ones between all of a clip, or those beside its keyframes."""
    return {
        "task": "interpolate", "video": clip, "insert": insert, "every": every, "start": start, "overlap": overlap,
        "keyframes": whole_numbers(keyframes, "--keyframes"),
    }  # fmt: skip
