"""A report as plain data for the page's script (studio/src/report/): words, numbers and relative files, never HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kinolab.evaluation.heatmap import css_gradient
from kinolab.reports import blocks
from kinolab.reports.axes import Axis, bins_of, drawable, tick_label
from kinolab.reports.blocks import figures
from kinolab.reports.charts import notes_of, thinned
from kinolab.reports.html import link

MOST_POINTS = 2000
"""Points of a line that a page holds; of longer ones the lowest and the highest of each stretch."""


def plain(report: blocks.Report) -> dict[str, Any]:
    """A report as dicts, lists, words and finite numbers, which JSON holds as they are."""
    return {
        "title": report.title, "text": report.text, "facts": _pairs(report.facts), "footer": report.footer,
        "sections": [{"title": s.title, "text": s.text, "blocks": _blocks(s.blocks)} for s in report.sections],
    }  # fmt: skip


def _blocks(found: Sequence[blocks.Block]) -> list[dict[str, Any]]:
    return [_block(block) for block in found]


def _block(block: blocks.Block) -> dict[str, Any]:
    """A block and its kind."""
    match block:
        case blocks.Text():
            return {"kind": "text", "title": block.title, "text": block.text, "code": block.code}
        case blocks.Facts():
            return {"kind": "facts", "title": block.title, "values": _pairs(block.values)}
        case blocks.Table():
            return _table(block)
        case blocks.Curves():
            return _curves(block)
        case blocks.Histogram():
            return _histogram(block)
        case blocks.SyncedVideos():
            return _videos(block)
        case blocks.WorstFirst():
            clips = [_clip(clip) for clip in block.clips]
            return {"kind": "worst", "title": block.title, "text": block.text, "clips": clips}
        case blocks.Gallery():
            return {"kind": "gallery", "cards": [_card(card) for card in block.cards]}
        case blocks.Fold():
            return {"kind": "fold", "title": block.title, "blocks": _blocks(block.blocks)}


def _pairs(values: Mapping[str, str]) -> list[list[str]]:
    """Name and value, in order; a JSON object would sort names that are numbers."""
    return [[name, value] for name, value in values.items()]


def _number(value: float | None) -> float | None:
    """A number that JSON can hold; None for what is none."""
    return float(value) if value is not None and drawable(value) else None


def _table(table: blocks.Table) -> dict[str, Any]:
    cells = table.cells
    numeric = [any(row[c].number is not None for row in cells) for c in range(len(table.columns))]
    columns = [{"name": n, "number": k} for n, k in zip(table.columns, numeric, strict=True)]
    rows = [[_cell(cell, number) for cell, number in zip(row, numeric, strict=True)] for row in cells]
    return {"kind": "table", "caption": table.caption, "columns": columns, "rows": rows}


def _cell(cell: blocks.Cell, numeric: bool) -> dict[str, Any]:
    """A cell; `key` is what its column is sorted by, None for a number that is not there."""
    found: dict[str, Any] = {"text": cell.text, "key": _number(cell.number) if numeric else cell.text.lower()}
    if cell.interval is not None:
        low, high = (_like(bound, cell.text) for bound in cell.interval)
        found["interval"] = f"{low} to {high}"
    return found | ({"mark": cell.mark} if cell.mark else {})


def _like(value: float, text: str) -> str:
    """A number with as many decimals as another one has."""
    whole, point, decimals = text.partition(".")
    return f"{value:.{len(decimals)}f}" if point and (whole.lstrip("-") + decimals).isdigit() else figures(value, 3)


def _curves(curves: blocks.Curves) -> dict[str, Any]:
    """Lines of points; what has no place on the scale is a gap."""
    series = []
    for name, points in curves.series.items():
        known = [(x, y if drawable(y) and (y > 0 or not curves.log) else None) for x, y in points if drawable(x)]
        kept = _thinned(known)
        series.append({"name": name, "steps": [x for x, _ in kept], "values": [y for _, y in kept]})
    return {
        "kind": "curves", "title": curves.title, "x": curves.x_label, "y": curves.y_label, "log": curves.log,
        "series": series, "note": "; ".join(notes_of(curves)),
    }  # fmt: skip


def _thinned(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    """At most about `MOST_POINTS` points, gaps kept."""
    if len(points) <= MOST_POINTS:
        return list(points)
    known = thinned([(x, y) for x, y in points if y is not None], MOST_POINTS)
    return sorted([*known, *((x, y) for x, y in points if y is None)], key=lambda point: point[0])


def _histogram(histogram: blocks.Histogram) -> dict[str, Any]:
    """Bins, marked values and the ticks of both axes."""
    bins = bins_of(histogram.values)
    marked = {n: v for n, v in histogram.markers.items() if math.isfinite(v)}
    known = sum(bins.counts)
    lost = len(histogram.values) - known
    return {
        "kind": "histogram", "title": histogram.title, "label": histogram.x_label,
        "edges": [*bins.edges], "counts": [*bins.counts],
        "hovers": [f"{figures(a)} to {figures(b)}: {n}" for a, b, n in zip(bins.edges, bins.edges[1:], bins.counts,
                                                                          strict=False)],
        "markers": [{"name": n, "value": v, "text": figures(v)} for n, v in marked.items()],
        "x": _axis([bins.edges[0], bins.edges[-1], *marked.values()]),
        "y": _axis([0.0, float(max(1, *bins.counts))], whole=True),
        "note": f"{known} clips" + (f"; {lost} without a value" if lost else ""),
    }  # fmt: skip


def _axis(values: Sequence[float], whole: bool = False) -> dict[str, Any]:
    """Both ends of an axis, and its ticks; `whole`: of whole numbers, from tick to tick."""
    axis = Axis.around(values, 0.0, 1.0, whole_steps=whole)
    ticks: Iterable[float] = (tick for tick in axis.ticks if not whole or tick == int(tick))
    return {"low": axis.low, "high": axis.high, "ticks": [[tick, tick_label(tick)] for tick in ticks]}


def _videos(block: blocks.SyncedVideos) -> dict[str, Any]:
    shown: list[dict[str, Any]] = [{"caption": caption, "url": link(name)} for caption, name in block.videos]
    if block.heatmap is not None:
        scale = {"low": "0", "high": f"{figures(block.heatmap_scale)} of 255", "colours": css_gradient()}
        shown.append({"caption": "error", "url": link(block.heatmap), "scale": scale})
    return {
        "kind": "videos", "title": block.title, "videos": shown, "fps": block.fps, "frames": block.frames,
        "facts": _pairs(block.facts),
    }  # fmt: skip


def _clip(clip: blocks.ScoredClip) -> dict[str, Any]:
    return {
        "name": clip.name, "text": clip.text, "url": None if clip.video is None else link(clip.video),
        "scores": [[name, figures(value)] for name, value in clip.scores.items()],
    }  # fmt: skip


def _card(card: blocks.Card) -> dict[str, Any]:
    return {
        "title": card.title, "url": link(card.video), "poster": None if card.poster is None else link(card.poster),
        "wide": card.wide, "captions": [*card.captions], "checks": [[name, ok] for name, ok in card.checks.items()],
        "facts": _pairs(card.facts), "command": card.command,
        "links": [[text, link(name)] for text, name in card.links.items()],
    }  # fmt: skip
