"""`kinolab probe`: what a video file holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kinolab.cli.options import common, show

if TYPE_CHECKING:
    from kinolab import video


@common()
def probe(
    files: Annotated[
        list[Path], typer.Argument(help="Video files, animated images, folders of numbered images, or of clips.")
    ],
    exact: Annotated[
        bool, typer.Option("--exact", help="Decode the whole file to count frames and measure the duration.")
    ] = False,
) -> None:
    """Show size, length, frame rate and codec of video files: of the frames that are shown.

    Of a folder that is no clip itself, every clip in it and below is shown. A file that cannot be read gives one line
    on standard error that says why, and exit status 2; the others are shown.
    """
    from kinolab import video
    from kinolab.errors import InputError

    found: list[video.VideoInfo] = []
    failed = False
    for file in (clip for named in files for clip in clips_of(named)):
        try:
            found.append(video.probe(file, exact=exact))
        except (InputError, OSError) as error:
            typer.echo(f"kinolab: {printable(str(error))}", err=True)
            failed = True
    show(found, table(found))
    if failed:
        raise typer.Exit(2)


def clips_of(path: Path) -> list[Path]:
    """A file, or a folder whose images are one clip, as it is; of another folder its clips, as training takes them."""
    from kinolab import video
    from kinolab.runtime.paths import visible

    if not path.is_dir():
        return [path]
    folders = any(entry.is_dir() for entry in visible(path))
    if video.images_of(path) and not folders and not video.videos_of(path):
        return [path]
    from kinolab.data.scan import find_clips

    names, _ = find_clips(path)
    return [path / name for name in names] or [path]


def table(infos: list[video.VideoInfo]) -> list[str]:
    """A line for every file, its name whole and first, however wide the terminal is."""
    if not infos:
        return []
    rows = [["file", "pixels", "frames", "frames/s", "seconds", "notes"]]
    for info in infos:
        rows.append(
            [
                printable(str(info.path)),
                f"{info.width}x{info.height}",
                "?" if info.frames is None else str(info.frames),
                f"{info.fps:.3f}".rstrip("0").rstrip("."),
                "?" if info.duration is None else f"{info.duration:.3f}",
                ", ".join(_notes(info)),
            ]
        )
    widths = [max(len(row[k]) for row in rows) for k in range(5)]
    numbers = (2, 3, 4)  # aligned on the right
    return [
        "  ".join(
            [*(row[k].rjust(widths[k]) if k in numbers else row[k].ljust(widths[k]) for k in range(5)), row[5]]
        ).rstrip()
        for row in rows
    ]


def printable(text: str) -> str:
    """Text that any terminal takes: control characters and bytes that are no text are written as escapes."""
    escaped = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in escaped)


def _notes(info: video.VideoInfo) -> list[str]:
    notes = [info.codec if info.codec == info.container else f"{info.codec} in {info.container}", info.pixel_format]
    if info.rotation:
        notes.append(f"stored turned by {info.rotation} degrees")
    if info.pixel_aspect != 1:
        notes.append(f"stored {info.stored_width} x {info.stored_height}, pixel aspect {info.pixel_aspect:.3f}")
    if info.has_audio:
        notes.append("audio")
    return [*notes, *info.notes]
