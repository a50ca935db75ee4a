"""Curations: what `kinolab data curate` scored and decided, as the folders that it wrote tell it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from kinolab.runtime.paths import visible
from kinolab.studio.api.asked import Asked, Studio
from kinolab.studio.faults import left_out, tried
from kinolab.studio.listing import names

RECORD, TABLE = "curation.json", "table.jsonl"
"""What a curation writes, by which its folder is known."""
LOADING = 120.0
"""Seconds that a first question may take: it imports what scores clips."""


def listed(studio: Studio, asked: Asked) -> Any:
    """GET /api/curations -> {curations}: every curation in the project, the newest first, {path, changed} and what it
    found: clips, kept, hours, hours_kept, costs, problems, scores, edges, written.

    costs: what each threshold drops, alone and of what those above leave. scores: {name, least, median, most, count}.
    edges: of each threshold {bound, dropped, kept}, the clips nearest to it, each {source, start, end, value, why,
    there}, there: whether `source` is one of the project's clips. pages: those (.html) that `--page` wrote beside it.
    problem: why a curation, or a part of its table, can't be read.
    """
    project = studio.project
    found = {path.parent for pattern in ("*", "*/*") for path in visible(project.folder, f"{pattern}/{RECORD}")}
    here = set(names(project)) if found else set()
    told = [facts(studio, folder, here) for folder in found]
    return {"curations": sorted(told, key=lambda each: -each["changed"])}


def facts(studio: Studio, folder: Path, here: set[str]) -> dict[str, Any]:
    """What the page shows of a curation."""
    project = studio.project
    status = [path.stat() for path in (folder / RECORD, folder / TABLE) if path.is_file()]
    mark = tuple((s.st_mtime_ns, s.st_size) for s in status)
    known = studio.curations.get(folder)
    if known is None or known[0] != mark:
        ask = partial(studio.recipes.ask, "curation", {"path": str(folder)}, LOADING)
        known = studio.curations[folder] = mark, tried(project, ask)
    values, problem = known[1]
    if values is not None:
        clips = [clip for edge in values["edges"] for side in ("dropped", "kept") for clip in edge[side]]
        for clip in clips:
            clip["there"] = clip["source"] in here
        problem = left_out(project, values["left"])
    return {
        "path": project.shown(folder), "changed": max((s.st_mtime for s in status), default=0.0),
        "pages": [project.shown(path) for path in visible(folder, "*.html")], "problem": problem,
        **{k: v for k, v in (values or {}).items() if k != "left"},
    }  # fmt: skip
