"""`kinolab rerun`: make a generated video again from the record beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinolab.cli.options import DEVICE_HELP, told_later


def rerun(
    video: Annotated[Path, typer.Argument(help="A generated video, or the .json beside it.")],
    out: Annotated[Path | None, typer.Option(help="Where to; default beside it with -again in its name.")] = None,
    device: Annotated[str | None, typer.Option(help=f"{DEVICE_HELP} Default: where it was made.")] = None,
) -> None:
    """Make a generated video again and compare: on the same machine and device its frames are the same bit for bit."""
    from kinolab.cli.data import progress_bar
    from kinolab.generate import rerun as run

    target = out if out is not None else video.with_name(f"{video.stem}-again{video.suffix}")
    if target.suffix == ".json":
        target = target.with_suffix(".mp4")
    with progress_bar("sampling", "steps") as advance:
        path, changed = run(video, target, device=device, progress=advance, say=told_later)
    typer.echo(path)
    if not changed:
        typer.echo("identical: every frame is the same, bit for bit")
        return
    for line in changed:
        typer.echo(f"differs: {line}")
    raise typer.Exit(1)
