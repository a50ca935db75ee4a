"""`kinolab rerun`: make a generated video again from the record beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinolab.cli.options import DEVICE_HELP, common, show, told_later, watch


@common(events=True)
def rerun(
    video: Annotated[Path, typer.Argument(help="A generated video, or the .json beside it.")],
    out: Annotated[Path | None, typer.Option(help="Where to; default beside it with -again in its name.")] = None,
    device: Annotated[str | None, typer.Option(help=f"{DEVICE_HELP} Default: where it was made.")] = None,
) -> None:
    """Make a generated video again and compare: on the same machine and device its frames are the same bit for bit."""
    from kinolab.generation.generate import rerun as run
    from kinolab.runtime.paths import named

    video = named(video)
    target = out if out is not None else video.with_name(f"{video.stem}-again{video.suffix}")
    if target.suffix == ".json":
        target = target.with_suffix(".mp4")
    with watch("sampling", "steps", notes=told_later) as events:
        path, changed = run(video, target, device=device, events=events)
    found = [f"differs: {line}" for line in changed] or ["identical: every frame is the same, bit for bit"]
    show({"file": path, "identical": not changed, "differs": changed}, [path, *found])
    if changed:
        raise typer.Exit(1)
