"""`kinolab data curate`: from raw videos to a training set, a table first and a decision after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kinolab.cli.engines import EachGiven, EngineOrRecipe, Workers, kept_in, take_engine
from kinolab.cli.options import common, show, watch
from kinolab.errors import InputError
from kinolab.runtime.interrupts import POISONED

if TYPE_CHECKING:
    from kinolab.data.curation import CurateSummary


@common(events=True)
def curate(
    source: Annotated[
        Path, typer.Argument(help="Folder, list, table, .tar or .parquet of raw videos, or a folder of archives.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the curation; of a store too: s3://...")],
    settings: Annotated[
        Path | None, typer.Option("--settings", help="YAML with signals, clips, keep and output; see docs/curation.md.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="key=value, such as keep.motion.min=0.02.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the table, say what each threshold costs, and write no clip.")
    ] = False,
    engine: EngineOrRecipe = None,
    workers: Workers = None,
    each: EachGiven = None,
    page: Annotated[
        Path | None, typer.Option(help="Also write a page (.html) with the clips at each threshold's edge.")
    ] = None,
) -> None:
    """Score raw videos, write a table of their clips, decide by thresholds, and write the clips that are kept.

    Scores are kept by content: change a threshold or how clips are cut and run it again, and no video is read anew.
    Exit status 3 says that videos were left out because they can't be read; they are named.
    """
    from kinolab.config import load_config
    from kinolab.contracts.events import Several
    from kinolab.data.curation import CurateConfig
    from kinolab.data.curation import curate as run
    from kinolab.runtime.remote import Mirror, address, is_remote

    if page is not None and page.suffix.lower() != ".html":
        raise InputError(f"--page {page}: expected the name of an .html file")
    config = load_config(CurateConfig, settings if settings is not None else {}, override or [], name="--set")
    if page is not None and not config.keep:
        raise InputError("--page: shows clips at the edges of thresholds, and there is none; set keep.SCORE.min")
    crew, store = take_engine(engine, workers, each, config.work), Mirror(out) if is_remote(out) else None
    here = out if store is None else store.path
    with watch("curating", "videos") as seen, kept_in(here, "curating", "videos", crew, store) as kept:
        summary = run(source, out, config, engine=crew, dry=dry_run, events=Several(seen, kept))
        kept.left_out(tuple(f"{name}: {problem}" for name, problem in summary.problems))
    for note in summary.notes:
        typer.echo(note, err=True)
    for name, problem in summary.problems:
        typer.echo(f"left out: {name}: {problem}", err=True)
    folder = address(out) if is_remote(out) else str(out)
    lines = list(told(summary, folder))
    if page is not None:
        from kinolab.reports.curation import write_curation

        shown = write_curation(page, summary.decision, summary.protocol)
        lines.append(f"{page}: {shown} clips at the edges")
    show(values_of(summary, folder), lines)
    failed = summary.written.failed if summary.written is not None else ()
    for cause in failed:
        typer.echo(f"left out: {cause}", err=True)
    if summary.problems or failed:
        raise typer.Exit(POISONED)


def told(summary: CurateSummary, folder: str) -> Iterator[str]:
    """What a curation did, in lines."""
    decision = summary.decision
    hours, kept = (sum(r.part.end - r.part.start for r in rows) / 3600 for rows in (decision.rows, decision.kept))
    yield f"{summary.videos} videos ({summary.read} read now), {len(decision.rows)} clips of {hours:.3g} hours"
    if decision.costs:
        width = max(len(cost.bound) for cost in decision.costs)
        yield f"{'threshold':<{width}}  {'drops alone':>22}  {'after those above':>22}"
        for cost in decision.costs:
            alone, more = f"{cost.clips} clips, {cost.hours:.3g} h", f"{cost.more_clips} clips, {cost.more_hours:.3g} h"
            yield f"{cost.bound:<{width}}  {alone:>22}  {more:>22}"
    yield f"kept: {len(decision.kept)} clips of {kept:.3g} hours; the table: {folder}/table.jsonl"
    if summary.written is not None:
        w = summary.written
        gone = f", {w.removed} removed that are no longer wanted" if w.removed else ""
        yield f"{folder}: {w.written} files written, {w.present} there already{gone}"


def values_of(summary: CurateSummary, folder: str) -> dict[str, object]:
    """What a curation did, as values."""
    decision = summary.decision
    return {
        "folder": folder,
        "table": f"{folder}/table.jsonl",
        "protocol": summary.protocol,
        "videos": summary.videos,
        "read": summary.read,
        "clips": len(decision.rows),
        "kept": len(decision.kept),
        "costs": decision.costs,
        "problems": dict(summary.problems),
        "written": summary.written,
    }
