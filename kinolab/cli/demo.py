"""`kinolab demo`: run the main job on the shipped weights and write a page."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from kinolab.cli.measuring import PromptModel
from kinolab.cli.options import Device, common, say, show, take_device, watch


def register(app: typer.Typer) -> None:
    """Add `demo`."""
    app.command()(demo)


@common(events=True)
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the page and its videos.")] = Path("out/demo"),
    model: PromptModel = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps; default the model's own.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first video; the others follow.")] = 0,
    device: Device = "auto",
) -> None:
    """Generate a few videos from text, check them from their pixels, reconstruct two clips, and write a page."""
    from kinolab.generation.request import default_model
    from kinolab.reports.demo import run_demo

    chosen = model if model is not None else default_model()
    with watch("showing", "videos", notes=say) as events:
        result = run_demo(out, chosen, seed=seed, steps=steps, device=take_device(device), events=events)
    right = sum(all(v.checks.values()) for v in result.videos)
    count = len(result.videos)
    values = {"page": result.page, "sheet": result.sheet, "videos": [v.path for v in result.videos]}
    lines = [
        f"{right} of {count} videos show all that was asked; {result.seconds:.0f} s in all",
        f"the videos, in a browser: {result.page}",
        f"all of them in one picture: {result.sheet}",
        f"the studio, a page for clips of your own: {shlex.quote(called())} studio my-project",
    ]
    show(values | {"as_asked": right, "seconds": result.seconds}, lines)


def called() -> str:
    """How this command was called, to be called again: by its path where that is not on the PATH (`make demo`)."""
    path = Path(sys.argv[0])
    return str(path) if path.name == "kinolab" and str(path.absolute().parent) not in os.get_exec_path() else "kinolab"
