"""The JSON that `kinolab evaluate` writes, as sections of a report. Each kind has one function; others get a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinolab.errors import InputError
from kinolab.evaluation.old_results import in_one_form
from kinolab.reports import toy
from kinolab.reports.blocks import (
    Block,
    Cell,
    Facts,
    Fold,
    Histogram,
    ScoredClip,
    Section,
    SyncedVideos,
    Table,
    Text,
    Value,
    WorstFirst,
    figures,
)
from kinolab.reports.media import Media, clock
from kinolab.reports.systems import Score, System, canonical, good_is, goodness
from kinolab.runtime.lines import one_line
from kinolab.runtime.paths import inside
from kinolab.runtime.reading import read_json
from kinolab.runtime.sets import finish_set_of

MOST_ROWS = 200
"""Rows of a list in a file of no known kind."""


@dataclass(frozen=True)
class Result:
    """What one JSON file adds to a report: its section, and its scores if others can be compared with them."""

    section: Section
    system: System | None = None


def read_result(path: Path, name: str, media: Media, worst: int) -> Result:
    """Read a file that `kinolab evaluate` or `kinolab reconstruct` wrote, or any JSON with numbers.

    Args:
        name: what it is called in the report.
        worst: clips that are shown of those with the worst scores.

    Raises:
        InputError: for a file that is no JSON object, or not in the form that its kind has.
    """
    with suppress(OSError):  # a folder that can't be written is read as it stands
        finish_set_of(path)
    record = read_json(path, constants=True)
    if not isinstance(record, dict):
        raise InputError(f"{path}: expected a JSON object, as kinolab evaluate writes it, got {type(record).__name__}")
    try:
        return _result(path, record, name, media, worst)
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"{path}: looks like a report of kinolab evaluate, but lacks {error}") from None
    except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RecursionError) as error:
        raise InputError(
            f"{path}: looks like a report of kinolab evaluate, but has another form: {one_line(error, 120)}"
        ) from None


VIEWS: Mapping[str, tuple[str, str, Callable[[Mapping[str, Any], int], Iterator[Block]]]] = {
    "world": ("Toy world", toy.WORLD_TEXT, toy.world_blocks),
    "physics": ("Physics", toy.PHYSICS_TEXT, toy.physics_blocks),
    "tasks": ("Tasks", toy.TASKS_TEXT, toy.tasks_blocks),
}
"""Kinds that show more than a table of their scores: title, text, and what shows them."""


def _result(path: Path, written: Mapping[str, Any], name: str, media: Media, worst: int) -> Result:
    if "reconstruct" in written and "out" in written:
        return Result(_reconstruction(path, written, name, media))
    record = in_one_form(written)
    if "metrics" not in record:
        return Result(_anything(path, record, name))
    kind, notes = str(record["kind"]), tuple(Text(str(note)) for note in record.get("notes") or ())
    scores = {metric: _score(found) for metric, found in record["metrics"].items()}
    title, text, view = VIEWS.get(kind, (kind.capitalize(), "", None))
    if view is None:
        blocks: Sequence[Block] = _metrics(path, record, scores, name, media, worst)
    else:
        blocks = list(view(record, worst))
    section = Section(f"{title}: {name}", text, (*notes, *blocks, _protocol(record, scores)))
    return Result(section, System(name, kind, _key(record), scores))


def _metrics(
    path: Path, record: Mapping[str, Any], scores: Mapping[str, Score], name: str, media: Media, worst: int
) -> list[Block]:
    """Any kind: scores, those of what they are held against, their spread over the clips, the worst clips."""
    rows = tuple(
        (
            metric,
            Cell.of(s.value, s.interval),
            s.count or None,
            good_is(metric) or "-",
            _method(record["metrics"][metric]),
        )
        for metric, s in scores.items()
    )
    table = Table(("metric", "value", "samples", "good is", "interval by"), rows, "scores with their intervals")
    clips = record.get("clips") or []
    blocks: list[Block] = [table, *_groups(record)]
    if costs := flat(record.get("facts") or {}):
        blocks.append(Facts(costs, "beside the scores"))
    for metric in dict.fromkeys(m for clip in clips for m in clip["scores"]):
        values = [_number(clip["scores"].get(metric)) for clip in clips]
        known = [v for v in values if math.isfinite(v)]
        if known:
            lines = {"mean": statistics.fmean(known), "median": statistics.median(known)}
            blocks.append(Histogram(f"{metric} of each clip", values, metric, lines))
    return blocks + worst_clips(path, clips, list(scores), name, media, worst)


def _groups(record: Mapping[str, Any]) -> Iterator[Table]:
    """The scores of what the subject is held against, one row each."""
    groups = {name: {m: _score(v) for m, v in group.items()} for name, group in (record.get("groups") or {}).items()}
    heads = list(dict.fromkeys(metric for group in groups.values() for metric in group))
    if groups:
        rows = tuple(
            (name, *(Cell.of(s.value, s.interval) if (s := group.get(m)) else Cell.of(None) for m in heads))
            for name, group in groups.items()
        )
        yield Table(("beside", *heads), rows, "what the scores are held against")


def _protocol(record: Mapping[str, Any], scores: Mapping[str, Score]) -> Fold:
    """All that must be equal for two results to be comparable, and who was measured."""
    per_metric = {f"{m}, {k}": v for m, s in scores.items() for k, v in flat(s.protocol).items()}
    facts = {"hash": str(record.get("protocol_hash", "-"))} | flat(record.get("protocol") or {})
    facts |= flat({key: record.get(key) or {} for key in ("subject", "data")})
    parts: tuple[Block, ...] = (Facts(facts),)
    if per_metric and str(record["kind"]) not in VIEWS:  # there it is what stands above, once per score
        parts += (Facts(per_metric, "of each metric"),)
    return Fold("protocol", parts)


def _key(record: Mapping[str, Any]) -> str:
    """What must be equal for two files to be comparable: the protocol, and the data by its hash if it has one."""
    data = record.get("data") or {}
    hashes = {k: v for k, v in data.items() if "hash" in k or "sha256" in k}
    return canonical([record.get("protocol_hash") or record.get("protocol"), hashes or data])


def _score(found: Mapping[str, Any]) -> Score:
    interval = found.get("interval")
    bounds = None if interval is None else (_number(interval["low"]), _number(interval["high"]))
    return Score(_number(found["value"]), bounds, found.get("protocol") or {}, int(found.get("count") or 0))


def _method(found: Mapping[str, Any]) -> str:
    interval = found.get("interval")
    return "-" if interval is None else f"{interval.get('method', '-')}, {100 * interval.get('level', 0.95):g}%"


def worst_clips(
    path: Path, clips: Sequence[Mapping[str, Any]], metrics: Sequence[str], name: str, media: Media, worst: int
) -> list[Block]:
    """The clips in order of the first metric of which it is known what is better; as a table where none has a video."""
    scored = [m for m in metrics if any(m in clip["scores"] for clip in clips)]
    by = next((m for m in scored if good_is(m) is not None), None)
    if by is None:
        return []

    def order(clip: Mapping[str, Any]) -> float:
        value = _number(clip["scores"].get(by))
        return goodness(by, value) if math.isfinite(value) else -math.inf  # a clip without a score is looked at first

    chosen = sorted(clips, key=order)[:worst]
    title = f"Worst clips first, by {by}"
    text = f"{len(chosen)} of {len(clips)} clips"
    rows = list[tuple[Value, ...]]()
    for clip in chosen:
        rows.append((str(clip["name"]), *(_number(clip["scores"].get(m)) for m in scored)))
    table = Table(("clip", *scored), tuple(rows), f"{title}: {text}")
    shown = tuple(
        ScoredClip(
            str(clip["name"]),
            {m: _number(clip["scores"].get(m)) for m in scored},
            media.use(file, name),
        )
        for clip in chosen
        if (file := _video_of(path, clip)) is not None
    )
    out = sum(bool(clip.get("video")) for clip in chosen) - len(shown)
    notes = [Text(f"Videos outside the folder of {path.name} are not shown: {out}.")] if out else []
    if not shown:
        return [table, *notes]
    words = f"{text}, {len(shown)} of them as videos"
    return [WorstFirst(title, shown, words), *notes, Fold("all of these clips", (table,))]


def _video_of(path: Path, clip: Mapping[str, Any]) -> Path | None:
    """The video that a result names for a clip; none where it lies outside the result's folder, which a file that
    somebody else made could use to have any file copied into the page."""
    if not clip.get("video"):
        return None
    try:
        return inside(path.parent, clip["video"])
    except InputError:
        return None


def _reconstruction(path: Path, record: Mapping[str, Any], name: str, media: Media) -> Section:
    """`kinolab reconstruct`: its video, which shows original, reconstruction and error side by side."""
    shown = path.parent / Path(record["out"]).name
    facts = {
        "PSNR": f"{record['psnr']['value']:.2f} dB",
        "SSIM": "-" if record.get("ssim") is None else f"{record['ssim']['value']:.4f}",
        "values per latent value": figures(record["ratio"]),
        "encode": f"{record['encode_seconds']:.2f} s",
        "decode": f"{record['decode_seconds']:.2f} s",
    }
    fps, frames = clock(shown)
    caption = f"original, reconstruction, error x {record['reconstruct']['amplify']:g}"
    video = SyncedVideos(str(record["clip"]), ((caption, media.use(shown, name)),), fps, frames, facts=facts)
    return Section(f"Reconstruction: {name}", "", (video, Fold("settings", (Facts(flat(record)),))))


def _anything(path: Path, record: Mapping[str, Any], name: str) -> Section:
    """A JSON of no known kind: its numbers at the top, and those of the records right below."""
    numbers: dict[str, float] = {}
    for key, value in record.items():
        inner = {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {key: value}
        numbers |= {k: v for k, v in inner.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    blocks = [_records(k, v) for k, v in record.items() if isinstance(v, list) and v and isinstance(v[0], Mapping)]
    if numbers:
        blocks.insert(0, Table(("name", "value"), tuple(numbers.items()), "the numbers of this file"))
    if not blocks:
        raise InputError(f"{path}: holds no numbers at its top; expected a file that kinolab evaluate wrote")
    return Section(name, "", tuple(blocks))


def _records(name: str, records: Sequence[Mapping[str, Any]]) -> Table:
    """A list of records, one row each, with what they say in numbers and words at their top."""
    heads = dict.fromkeys(k for r in records for k, v in r.items() if isinstance(v, str | int | float))
    rows = tuple(tuple(_plain(record.get(head)) for head in heads) for record in records[:MOST_ROWS])
    left = f", the first {MOST_ROWS} of {len(records)}" if len(records) > MOST_ROWS else ""
    return Table(tuple(heads), rows, f"{name}{left}")


def _plain(value: Any) -> Value:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str | int | float) else None


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A record as name -> words, inner records by dotted names, lists on one line."""
    return dict(_flat(record, prefix))


def _flat(record: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            words = [figures(v, 6) if isinstance(v, float) else str(v) for v in value]
            yield f"{prefix}{key}", ", ".join(words[:12]) + (f", ... ({len(words)})" if len(words) > 12 else "")
        else:
            yield f"{prefix}{key}", "-" if value is None else str(value)


def _number(value: Any) -> float:
    """A number of a JSON file; none is NaN."""
    return math.nan if value is None else float(value)
