"""`kinolab report`: a page about runs and evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinolab.cli.options import common, show, watch


def register(app: typer.Typer) -> None:
    """Add `report`."""
    app.command()(report)


@common(events=True)
def report(
    inputs: Annotated[
        list[Path], typer.Argument(help="Run folders, and JSON files of kinolab evaluate.", metavar="RUN_OR_JSON...")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page; its videos go to media/ beside it.")] = Path(
        "report.html"
    ),
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Kinolab report",
    worst: Annotated[int, typer.Option(min=1, help="Clips shown of those with the worst scores.")] = 24,
) -> None:
    """Write one HTML page that opens from disk without a network.

    Run folders are shown with their curves, their samples in order of steps and their recipe; evaluations with tables
    and intervals, histograms over the clips and the worst clips first. Systems that were measured by one protocol
    stand in one table, with the differences that are larger than the noise marked.
    """
    from kinolab.errors import InputError
    from kinolab.reports import build_report, write_report

    if out.suffix not in (".html", ".htm"):
        raise InputError(f"--out: expected a name that ends in .html, got {out}")
    with watch("reporting") as events:
        page, media = build_report(inputs, title, worst)
        media.write(out.parent)
        write_report(page, out)
        events.wrote(out, "page")
    sections, videos = len(page.sections), len(set(page.media))
    show({"page": out, "sections": sections, "videos": videos}, [f"{out}: parts: {sections}, videos: {videos}"])
