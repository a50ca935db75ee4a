"""A page about a curation: what each threshold costs, how each score is spread, and the clips at each one's edge."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from kinolab import __version__, video
from kinolab.data.curation.deciding import Bound, Decision
from kinolab.data.curation.table import Row, rounded
from kinolab.errors import InputError
from kinolab.reports.blocks import Block, Histogram, Report, ScoredClip, Section, Table, Text, WorstFirst
from kinolab.reports.media import FOLDER, slug
from kinolab.reports.render import write_report
from kinolab.runtime.hashes import json_sha256

EDGE = 4
"""Clips on either side of a threshold."""
SIDE, MOST = 192, 96
"""Pixels of the shorter side, and frames, of a clip on the page."""


def write_curation(page: Path, decision: Decision, protocol: str) -> int:
    """Write the page, and small copies of the clips that it shows beside it; how many those are.

    Raises:
        InputError: where there is nothing to decide.
    """
    if not decision.bounds:
        raise InputError("--page: shows clips at the edges of thresholds, and there is none; set keep.SCORE.min")
    hours, kept = (sum(r.part.end - r.part.start for r in rows) / 3600 for rows in (decision.rows, decision.kept))
    shown: dict[str, Row] = {}
    sections = [_costs(decision), *(_edge(bound, decision.rows, shown) for bound in decision.bounds)]
    made = {name: _write(page.parent / name, row) for name, row in shown.items()}
    sections = [_without(section, made) for section in sections]
    facts = {
        "clips": str(len(decision.rows)), "hours": f"{hours:.3g}", "kept": str(len(decision.kept)),
        "hours kept": f"{kept:.3g}",
    }  # fmt: skip
    text = f"Every clip of the table was scored by protocol {protocol}; thresholds are applied to the same numbers."
    footer = f"kinolab {__version__}. This page needs no network; its videos lie in the folder media beside it."
    write_report(Report("Curation", text, tuple(sections), facts=facts, footer=footer), page)
    return sum(made.values())


def _costs(decision: Decision) -> Section:
    """What each threshold drops."""
    rows = tuple((c.bound, c.clips, c.hours, c.more_clips, c.more_hours) for c in decision.costs)
    columns = ("kept where", "drops clips", "hours", "clips after those above", "hours after those above")
    return Section("Thresholds", "What each drops alone, and of what those above it leave.", (Table(columns, rows),))


def _edge(bound: Bound, rows: Sequence[Row], shown: dict[str, Row]) -> Section:
    """How a score is spread, and the clips nearest to its threshold."""
    known = [(value, row) for row in rows if (value := rounded(row.scores.get(bound.score))) is not None]
    kept = sorted((abs(v - bound.limit), k) for k, (v, _) in enumerate(known) if bound.holds(v))[:EDGE]
    dropped = sorted((abs(v - bound.limit), k) for k, (v, _) in enumerate(known) if not bound.holds(v))[:EDGE]
    blocks: list[Block] = []
    if known:
        blocks.append(Histogram(bound.score, [v for v, _ in known], bound.score, {"threshold": bound.limit}))
    for title, found in (("Just dropped", dropped), ("Just kept", kept)):
        clips = []
        for _, k in found:
            value, row = known[k]
            name = _file(row)
            shown[name] = row
            text = "" if not row.reasons else f"dropped: {row.reasons[0]}"
            clips.append(ScoredClip(row.name, {bound.score: value}, name, text))
        if clips:
            blocks.append(WorstFirst(title, tuple(clips)))
        else:
            blocks.append(Text(f"{title}: no clip."))
    return Section(str(bound), "The clips nearest to the threshold on either side.", tuple(blocks))


def _file(row: Row) -> str:
    key = json_sha256([row.content, row.part.start, row.part.end])[:12]
    return f"{FOLDER}/curation/{slug(row.item.name)[:60]}-{key}.mp4"


def _write(path: Path, row: Row) -> bool:
    """Write a small copy of a clip; whether it could be read."""
    if path.is_file():
        return True
    fps = min(row.scores.get("fps") or 8.0, 24.0)
    try:
        with row.item.local(path.parent) as source:
            end = None if row.whole else row.part.end
            probed = video.probe(source)
            size = SIDE if min(probed.height, probed.width) > SIDE else None
            found = video.iter_frames(source, start=row.part.start, end=end, fps=fps, size=size, threads=1)
            video.write(path, (frame.image for frame in islice(found, MOST)), fps, quality=80)
    except InputError:  # it changed since it was scored; the rest of the page is worth having
        return False
    return True


def _without(section: Section, made: dict[str, bool]) -> Section:
    """The section, its clips that could not be read without a video."""
    blocks = []
    for block in section.blocks:
        if isinstance(block, WorstFirst):
            clips = [
                c if c.video is None or made.get(c.video) else ScoredClip(c.name, c.scores, None, c.text)
                for c in block.clips
            ]
            block = WorstFirst(block.title, tuple(clips), block.text)
        blocks.append(block)
    return Section(section.title, section.text, tuple(blocks))
