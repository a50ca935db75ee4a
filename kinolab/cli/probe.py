"""`kinolab probe`: what a video file holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kinolab import video


def probe(
    files: Annotated[list[Path], typer.Argument(help="Video files, animated images or folders of numbered images.")],
    exact: Annotated[
        bool, typer.Option("--exact", help="Read the whole file to count frames and measure the duration.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list with one object per file.")] = False,
) -> None:
    """Show size, length, frame rate and codec of video files.

    A file that cannot be read gives one line on standard error that says why, and exit status 2; the others are shown.
    """
    from kinolab import video
    from kinolab.errors import InputError

    found: list[video.VideoInfo] = []
    failed = False
    for file in files:
        try:
            found.append(video.probe(file, exact=exact))
        except (InputError, OSError) as error:
            typer.echo(f"kinolab: {error}", err=True)
            failed = True
    if as_json:
        import dataclasses
        import json

        typer.echo(json.dumps([{**dataclasses.asdict(info), "path": str(info.path)} for info in found], indent=2))
    elif found:
        _print_table(found)
    if failed:
        raise typer.Exit(2)


def _print_table(infos: list[video.VideoInfo]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("file", overflow="fold")
    table.add_column("pixels", no_wrap=True)
    for name in ("frames", "frames/s", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("notes", overflow="fold")
    for info in infos:
        table.add_row(
            str(info.path),
            f"{info.width}x{info.height}",
            "?" if info.frames is None else str(info.frames),
            f"{info.fps:.3f}".rstrip("0").rstrip("."),
            "?" if info.duration is None else f"{info.duration:.3f}",
            ", ".join(_notes(info)),
        )
    Console().print(table)


def _notes(info: video.VideoInfo) -> list[str]:
    notes = [info.codec if info.codec == info.container else f"{info.codec} in {info.container}", info.pixel_format]
    if info.rotation:
        notes.append(f"stored turned by {info.rotation} degrees")
    if info.pixel_aspect != 1:
        notes.append(f"stored {info.stored_width} x {info.stored_height}, pixel aspect {info.pixel_aspect:.3f}")
    if info.has_audio:
        notes.append("audio")
    if info.frames is None or info.duration is None:
        notes.append("length not stated: --exact counts")
    return notes
