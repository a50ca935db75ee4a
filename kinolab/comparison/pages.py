"""What a comparison writes: Markdown, CSV, and a page with the videos side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kinolab.comparison.hashes import cell_folder
from kinolab.comparison.matrix import Cell, cells_of
from kinolab.comparison.plan import ComparePlan
from kinolab.comparison.run import read_scores
from kinolab.comparison.tables import (
    Group,
    fact_of,
    groups_of,
    heading,
    markdown,
    marks,
    samples_text,
    to_csv,
)
from kinolab.errors import InputError
from kinolab.reports import Cell as TableCell
from kinolab.reports import (
    Curves,
    Media,
    Report,
    Section,
    SyncedVideos,
    Table,
    Text,
    curves_of_run,
    write_report,
)
from kinolab.reports.blocks import Mark, Value
from kinolab.reports.media import clock
from kinolab.runtime.files import write_text
from kinolab.runtime.paths import inside
from kinolab.runtime.reading import read_text

BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"
"""Where the tables go in a page that holds other words too."""


def write_tables(plan: ComparePlan, out: Path, extra: Path | None = None) -> list[Path]:
    """Write table.md, table.csv and report.html of what has been measured; returns the files.

    extra: another place for the Markdown; in a page with the marks `BEGIN` and `END` it goes between them.

    Raises:
        InputError: where nothing has been measured.
    """
    scores = read_scores(plan, out)
    if not scores:
        raise InputError(f"{out}: nothing is measured yet; run `kinolab compare` without --table first")
    groups = groups_of(plan, scores)
    text = markdown(plan, groups)
    write_text(out / "table.md", text)
    write_text(out / "table.csv", to_csv(groups))
    files = [out / "table.md", out / "table.csv", *([extra] if extra is not None else [])]
    if extra is not None:
        write_text(extra, placed(text, extra))
    missing = len(cells_of(plan)) - len(scores)
    page = out / "report.html"
    media = Media()
    report = _report(plan, groups, out, media, missing)
    media.write(out)
    write_report(report, page)
    return [*files, page]


def placed(text: str, page: Path) -> str:
    """The page with the tables between its marks; the tables alone where there is no page, or none with marks.

    Raises:
        InputError: for a page that is there and has not both marks: its words would be lost.
    """
    if not page.exists():
        return text
    before = read_text(page)
    if BEGIN not in before or END not in before.partition(BEGIN)[2]:
        raise InputError(f"{page}: is there already and has no {BEGIN} ... {END} for the tables; name another file")
    head, _, rest = before.partition(BEGIN)
    return f"{head}{BEGIN}\n{text}{END}{rest.partition(END)[2]}"


def _report(plan: ComparePlan, groups: Sequence[Group], out: Path, media: Media, missing: int) -> Report:
    sections = []
    for group in groups:
        blocks: list[Any] = [_cost_table(group), _score_table(group)]
        blocks += shown_videos(plan, group, out, media)
        curves = _curves(plan, group, out)
        blocks += [curves] if curves is not None else []
        head = group.protocol
        text = f"Protocol {head['protocol']['name']} {head['protocol_hash'][:12]}, {samples_text(head)}."
        sections.append(Section(group.title, text, tuple(blocks)))
    notes = "All cells are measured." if not missing else f"{missing} cells are not measured yet."
    sections.append(Section("Notes", notes, tuple(Text(n) for n in _notes(groups))))
    return Report(plan.name, plan.description, tuple(sections))


def _notes(groups: Sequence[Group]) -> list[str]:
    found = {n: None for g in groups for row in g.rows for r in row.records for n in r["notes"]}
    return [note for note in found if "cache" not in note]


def _cost_table(group: Group) -> Table:
    facts = [f for f in group.facts if any(fact_of(row, f) is not None for row in group.rows)]
    rows: list[tuple[Value, ...]] = []
    for row in group.rows:
        values = [fact_of(row, f) for f in facts]
        rows.append((row.name, *(f.show(v) if isinstance(v, list) else TableCell.of(v)
                                 for f, v in zip(facts, values, strict=True))))  # fmt: skip
    return Table(("", *(f.heading for f in facts)), tuple(rows), "What it costs")


def _score_table(group: Group) -> Table:
    marked = {m: marks(group, m) for m in group.metrics}
    words: dict[str, Mark] = {"best": "better", "noise": "noise", "worse": "", "alone": ""}
    rows: list[tuple[Value, ...]] = []
    for k, row in enumerate(group.rows):
        cells = []
        for m in group.metrics:
            # The best is marked as better beyond noise only where no other one is within it.
            mark: Mark = "noise" if marked[m][k] == "best" and "noise" in marked[m] else words[marked[m][k]]
            cells.append(TableCell.of(row.mean(m), row.interval(m), mark))
        rows.append((row.name, *cells))
    return Table(("", *(heading(m) for m in group.metrics)), tuple(rows), "What comes of it")


def shown_videos(plan: ComparePlan, group: Group, out: Path, media: Media) -> list[SyncedVideos]:
    """The clips that most rows kept (autoencoders keep their largest errors), those of one clip side by side."""
    kept: dict[str, dict[str, tuple[Cell, Path]]] = {}
    for row in group.rows:
        cell = row.cells[0]
        for clip in row.records[0]["clips"]:
            if clip["video"] is None:
                continue
            file = inside(cell_folder(plan, cell, out), clip["video"])
            if file.is_file():
                kept.setdefault(clip["name"], {})[row.name] = (cell, file)
    blocks = []
    for name in sorted(kept, key=lambda n: -len(kept[n]))[: plan.videos]:
        fps, frames = min((clock(f) for _, f in kept[name].values()), key=lambda pair: pair[1])
        videos = tuple((row, media.use(f, cell.id.replace("/", "-"))) for row, (cell, f) in kept[name].items())
        what = "original, reconstruction, error" if group.kind == "autoencoder" else "generated"
        blocks.append(SyncedVideos(f"{what}: {name}", videos, fps, frames))
    return blocks


def _curves(plan: ComparePlan, group: Group, out: Path) -> Curves | None:
    """The training loss of every row over the steps."""
    name = "train autoencoder_loss" if group.kind == "autoencoder" else "train loss"
    series: dict[str, list[tuple[float, float]]] = {}
    for row in group.rows:
        run = cell_folder(plan, row.cells[0], out) / "run"
        if (run / "log.jsonl").exists():
            points = curves_of_run(run).get(name)
            series |= {row.name: points} if points else {}
    return Curves("Training loss", series, "step", "loss", log=True) if series else None
