"""What the helper says of a curation: what its table and its record tell of scores, thresholds and their edges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from kinolab.data.curation.deciding import Bound, bounds_of
from kinolab.data.curation.run import MOST, RECORD, TABLE
from kinolab.data.curation.settings import Bounds
from kinolab.errors import InputError
from kinolab.runtime.paths import visible
from kinolab.runtime.reading import Limits, json_lines, read_json

EDGE = 4
"""Clips on either side of a threshold."""
PLACE = frozenset({"start", "end"})
"""Numbers of a row that say where a clip lies, and are no scores."""
LIMITS = Limits(bytes=MOST)


def curation(path: str) -> dict[str, Any]:
    """What a curation found and decided.

    Returns clips, kept, hours, hours_kept; costs: what each threshold drops; problems: {video, problem}; scores: {name,
    least, median, most, count}; edges: of each threshold the clips nearest to it, {bound, dropped, kept}, each clip
    {source, start, end, value, why}; written: whether the kept clips lie there; left: what is wrong with the table's
    lines that can't be read.

    Raises:
        InputError: where the folder holds no curation that can be read.
    """
    folder = Path(path)
    record, wrong = read_json(folder / RECORD), list[str]()
    if not isinstance(record, dict) or not isinstance(record.get("keep"), dict):
        raise InputError(f"{folder / RECORD}: expected the record of a curation; run kinolab data curate again")
    rows = list[dict[str, Any]]()
    for number, row in json_lines(folder / TABLE, LIMITS, damaged="skip", say=wrong.append):
        if _is_row(row):
            rows.append(row)
        else:
            wrong.append(f"{folder / TABLE}: line {number}: no row of a clip")
    names = [
        n for n in dict.fromkeys(k for row in rows for k in row) if n not in PLACE and any(_number(r, n) for r in rows)
    ]
    kept = [row for row in rows if row.get("kept")]
    hours, hours_kept = (sum(row["end"] - row["start"] for row in each) / 3600 for each in (rows, kept))
    return {
        "clips": len(rows), "kept": len(kept), "hours": hours, "hours_kept": hours_kept,
        "costs": record.get("costs") or [], "problems": record.get("problems") or [],
        "scores": [_spread(rows, name) for name in names],
        "edges": [_edge(bound, rows) for bound in _bounds(record["keep"], rows)],
        "written": (folder / "metadata.jsonl").is_file() or bool(visible(folder, "clips-*")), "left": wrong,
    }  # fmt: skip


def _is_row(row: Any) -> bool:
    """Whether a line of the table is one of a clip."""
    return isinstance(row, dict) and isinstance(row.get("source"), str) and all(_number(row, n) for n in PLACE)


def _number(row: dict[str, Any], name: str) -> bool:
    """Whether a row has a number of that name."""
    return isinstance(row.get(name), int | float) and not isinstance(row[name], bool)


def _spread(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """How a score is spread."""
    values = [row[name] for row in rows if _number(row, name)]
    return {"name": name, "least": min(values), "median": median(values), "most": max(values), "count": len(values)}


def _bounds(keep: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[Bound]:
    """The thresholds as they came out."""
    found = list[Bound]()
    for name, given in keep.items():
        values = [row[name] for row in rows if _number(row, name)]
        found += bounds_of(name, Bounds(**given), values)
    return found


def _edge(bound: Bound, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The clips nearest to a threshold, on either side."""
    known = sorted(
        (row for row in rows if _number(row, bound.score)), key=lambda row: abs(row[bound.score] - bound.limit)
    )

    def nearest(wanted: Callable[[float], bool]) -> list[dict[str, Any]]:
        near = [row for row in known if wanted(row[bound.score])][:EDGE]
        return [
            {"source": row["source"], "start": row["start"], "end": row["end"], "value": row[bound.score],
             "why": "; ".join(map(str, row.get("dropped") or ()))}
            for row in near
        ]  # fmt: skip

    return {"bound": str(bound), "score": bound.score, "dropped": nearest(lambda value: not bound.holds(value)),
            "kept": nearest(bound.holds)}  # fmt: skip
