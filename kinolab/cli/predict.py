"""`kinolab predict`: what comes after the first frames of a clip, or before them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kinolab.cli.given import Clip, Overlap, Start, given_command


@given_command
def predict(
    clip: Clip,
    given: Annotated[
        int | None, typer.Option(min=1, help="Frames of the clip that are given, from --start on; default 8.")
    ] = None,
    past: Annotated[bool, typer.Option("--past", help="They are the last ones; generate what came before.")] = False,
    start: Start = 0.0,
    overlap: Overlap = None,
) -> dict[str, Any]:
    """Predict the frames that follow the first ones of a clip (or came before them), --frames in all."""
    return {"task": "predict", "video": clip, "given": given, "past": past, "start": start, "overlap": overlap}
