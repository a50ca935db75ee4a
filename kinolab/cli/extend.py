"""`kinolab extend`: a clip of any length from a shorter one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kinolab.cli.given import Clip, Overlap, Start, given_command


@given_command
def extend(
    clip: Clip,
    past: Annotated[bool, typer.Option("--past", help="Generate what came before the clip.")] = False,
    loop: Annotated[bool, typer.Option("--loop", help="Let the end go over into the beginning.")] = False,
    stride: Annotated[
        int | None, typer.Option(min=2, help="Two passes: every n-th frame first, then what lies between.")
    ] = None,
    start: Start = 0.0,
    overlap: Overlap = None,
) -> dict[str, Any]:
    """Go on with a clip up to --frames in all, window by window; the whole clip stays."""
    return {
        "task": "extend", "video": clip, "past": past, "loop": loop, "stride": stride, "start": start,
        "overlap": overlap,
    }  # fmt: skip
