"""The evaluations on the toy world (`evaluate world | physics | tasks`), from their JSON to blocks of a report."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kinolab.reports.blocks import Block, Cell, Curves, Histogram, Table, Value

WORLD_TEXT = (
    "Held-out requests of the toy world: the share of clips whose pixels show what was asked, in percent, with 95% "
    "intervals. The true clips are the reader's ceiling; the reconstructed ones say what the autoencoder costs."
)
PHYSICS_TEXT = (
    "Held-out clips of the toy world, predicted from their first frames: distance of the objects from the simulator's "
    "positions, in pixels of 64. The baselines know the positions in the given frames exactly."
)
TASKS_TEXT = (
    "Held-out clips of the toy world of which a part is given: PSNR in dB of the given part and of the generated rest, "
    "each beside what the autoencoder alone reaches, and the objects' distance from their true positions."
)
AHEAD = 8
"""Frames over which the error of a predicted clip is averaged, as in `evaluate physics`."""
MEASURES = ("found", "identity", "momentum", "energy", "hits", "timing")


def world_blocks(record: Mapping[str, Any], worst: int) -> Iterator[Block]:
    """Shares of every check, by subject and by scenario; what each clip passes; the worst clips."""
    checks = record["checks"]
    subjects = list(checks)
    names = [n for n, share in checks[subjects[0]].items() if isinstance(share, Mapping) and share["count"]]
    rows = [(n, checks[subjects[0]][n]["count"], *(_share(checks[s][n]) for s in subjects)) for n in names]
    rows.append(("physics", None, *(Cell.of(_number(checks[s]["physics"]), digits=3) for s in subjects)))
    yield Table(
        ("check", "asked", *subjects),
        tuple(rows),
        "% of clips that pass; physics: median distance from constant acceleration, in 64ths of the frame's side",
    )
    yield Table(
        ("scenario", "clips", *names),
        tuple(
            (scenario, part["generated"]["all"]["count"], *(_share(part["generated"][n]) for n in names))
            for scenario, part in record["scenarios"].items()
        ),
        "the generated clips by scenario: % that pass",
    )
    made = [clip for clip in record["clips"] if clip["subject"] == "generated"]
    passed = [float(_passed(clip)) for clip in made]
    mean = statistics.fmean(passed) if passed else math.nan
    yield Histogram("Checks that each generated clip passes", passed, "checks passed", {"mean": mean})
    yield _roughness(record, made)
    order = sorted(made, key=lambda clip: (_passed(clip) / max(1, _asked(clip)), -_number(clip["physics"], 0.0)))
    yield Table(
        ("clip", "request", "scenario", "not as asked", "passed", "physics", "noise seed"),
        tuple(
            (str(clip["clip_seed"]), clip["caption"], clip["scenario"], ", ".join(_failed(clip)) or "-",
             Cell(f"{_passed(clip)} of {_asked(clip)}", _passed(clip) / max(1, _asked(clip))),
             _number(clip["physics"]), clip["noise_seed"])
            for clip in order[:worst]
        ),
        f"the worst {min(worst, len(order))} of {len(order)} generated clips first",
    )  # fmt: skip


def _roughness(record: Mapping[str, Any], made: Sequence[Mapping[str, Any]]) -> Histogram:
    middle = {f"median, {s}": _number(part["physics"]) for s, part in record["checks"].items()}
    values = [_number(clip["physics"]) for clip in made]
    return Histogram("Distance from constant acceleration, generated clips", values, "64ths of the frame", middle)


def physics_blocks(record: Mapping[str, Any], worst: int) -> Iterator[Block]:
    """Means by given frames and subject, the error frame by frame, its spread over the clips, the worst clips."""
    means: Mapping[str, Mapping[str, Any]] = record["means"]
    rows: list[tuple[Value, ...]] = [
        (int(given), subject, *(_number(part[k]) for k in ("error_first_8", "error_first_8_contacts", *MEASURES)))
        for given, subjects in means.items()
        for subject, part in subjects.items()
    ]
    heads = ("given", "subject", f"error 1 to {AHEAD}", "the same, contacts", *MEASURES)
    yield Table(heads, tuple(rows), "means over the clips; of momentum and energy the median")
    for given, subjects in means.items():
        lines = {
            subject: [(float(k), _number(e)) for k, e in enumerate(part["error_by_frame"], 1)]
            for subject, part in subjects.items()
        }
        title = f"Error after {given} given frame{'s' * (int(given) > 1)}"
        yield Curves(title, lines, "frames after the last given one", "pixels of 64")
    most = max(map(int, means))
    clips = [clip for clip in record["clips"] if clip["given"] == most]
    made = [(_mean_error(clip), clip) for clip in clips if clip["subject"] == "model"]
    others = {s: [_mean_error(c) for c in clips if c["subject"] == s] for s in means[str(most)]}
    lines_at = {f"mean, {s}": statistics.fmean(known) for s, v in others.items() if (known := _finite(v))}
    title = f"Mean error of each predicted clip, from {most} given frames"
    yield Histogram(title, [error for error, _ in made], "pixels of 64", lines_at)
    made.sort(key=lambda item: -item[0] if math.isfinite(item[0]) else -math.inf)
    yield Table(
        ("clip", "scenario", "mean error", "found", "same objects", "timing", "hits"),
        tuple(
            (str(c["clip_seed"]), c["scenario"], error, c["found"], "yes" if c["identity"] else "no",
             _number(c["timing"]), _number(c["hits"]))
            for error, c in made[:worst]
        ),
        f"the worst {min(worst, len(made))} of {len(made)} predictions from {most} given frames first",
    )  # fmt: skip


def tasks_blocks(record: Mapping[str, Any], worst: int) -> Iterator[Block]:
    """One row per task; clips have no scores of their own there."""
    keys = ("given_psnr", "given_ceiling", "made_psnr", "made_ceiling", "error", "found")
    heads = ("task", "given", "given, autoencoder", "generated", "generated, autoencoder", "distance", "found, %")
    rows = list[tuple[Value, ...]]()
    for task in record["tasks"]:
        values = [_number(task[key]) for key in keys]
        rows.append((task["task"], *(Cell.of(v, digits=3) for v in values[:-1]), Cell.of(100 * values[-1], digits=3)))
    yield Table(
        heads, tuple(rows), f"means over {record['protocol']['count']} clips; PSNR in dB, distance in pixels of 64"
    )


def _share(share: Mapping[str, Any]) -> Cell:
    if not share["count"]:
        return Cell.of(None)
    value = 100 * _number(share["share"])
    return Cell(f"{value:.1f}", value, (round(100 * share["low"], 1), round(100 * share["high"], 1)))


def _asked(clip: Mapping[str, Any]) -> int:
    return sum(value is not None for value in clip["checks"].values())


def _passed(clip: Mapping[str, Any]) -> int:
    return sum(bool(value) for value in clip["checks"].values())


def _failed(clip: Mapping[str, Any]) -> list[str]:
    return [name for name, value in clip["checks"].items() if value is False]


def _mean_error(clip: Mapping[str, Any]) -> float:
    known = _finite([_number(e) for e in clip["errors"][:AHEAD]])
    return statistics.fmean(known) if known else math.nan


def _finite(values: Sequence[float]) -> list[float]:
    return [v for v in values if math.isfinite(v)]


def _number(value: Any, otherwise: float = math.nan) -> float:
    return otherwise if value is None else float(value)
