"""`kinolab upscale`: a clip made larger by a super-resolution model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kinolab.cli.fields import about
from kinolab.cli.generate import run_request
from kinolab.cli.given import Clip, Out, Prompt, sampling_command
from kinolab.cli.options import parse_size

Start = Annotated[float, typer.Option(min=0, help=about("refine.start"))]
Size = Annotated[str | None, typer.Option(help="Shorter side, or HEIGHTxWIDTH; none = as much larger as in training.")]
Window = Annotated[int | None, typer.Option(min=1, help=about("refine.window"))]
Overlap = Annotated[int | None, typer.Option(min=0, help=about("refine.overlap"))]
Tile = Annotated[int | None, typer.Option(min=0, help=about("refine.tile"))]
Frames = Annotated[int | None, typer.Option(min=1, help="Frames that are made at most; none = of the whole clip.")]
Rate = Annotated[float | None, typer.Option(help="Frame rate of the file; none = as long as the clip.")]


def _upscale(
    clip: Clip, start: Start = 0.0, window: Window = None, overlap: Overlap = None, tile: Tile = None
) -> dict[str, Any]:
    """Make a clip larger by a model that was trained to refine clips, or by a stage of a cascade.

    The clip may have any length: frames are made and written as they are read, window by window, and memory does not
    grow with it. Larger frames than the model was trained on are made of tiles. Both are blended in every step, so
    that there are no seams. Sound is not kept. Ctrl-C ends it and keeps the frames so far, as NAME-partial.
    """
    return {"task": "upscale", "video": clip, "start": start, "window": window, "overlap": overlap, "tile": tile}


def _run(values: dict[str, Any], refine: dict[str, Any]) -> None:
    size = parse_size(values["size"])
    if isinstance(size, int):
        refine["side"], values["size"] = size, None
    out = values["out"] or Path(f"{refine['video'].resolve().stem}-upscale.mp4")
    run_refinement(out, values, refine)


def run_refinement(out: Path, values: dict[str, Any], refine: dict[str, Any]) -> None:
    """Refine a clip as the options of `generate` and fields of a `RefineConfig` say."""
    asked = {name: value for name, value in refine.items() if value is not None}
    run_request(out, values, {"refine": asked}, doing=("refining", "frames"), keeps="the frames so far")


EXTRA = {
    "prompt": (Prompt, None), "out": (Out, None), "size": (Size, None), "frames": (Frames, None), "fps": (Rate, None),
}  # fmt: skip
upscale = sampling_command("upscale", _upscale, EXTRA, _run)
