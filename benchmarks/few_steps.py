"""`python -m benchmarks few_steps TEACHER STUDENT [STUDENT...]`: what a distilled model gives for its few steps.

Every model answers the same held-out requests of the toy world by its own sampler, steps and guidance: the checks of
`kinolab evaluate world`, with the difference to the teacher's on the same requests; drift, the PSNR of a decoded clip
against the teacher's from the same noise; and seconds of a single clip in a warm process, text, denoising and decoding
together, the models taking turns. All with 95% intervals.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import machine
from kinolab.diffusion import SamplerConfig
from kinolab.errors import InputError
from kinolab.evaluation.world import evaluate_world
from kinolab.evaluation.world_report import CHECKS, WorldReport
from kinolab.metrics.reconstruction import psnr
from kinolab.metrics.statistics import mean_interval, paired_difference
from kinolab.models import VideoModel
from kinolab.runtime.files import write_text

ALL = (*CHECKS, "all")
AIM_POINTS, AIM_FASTER = 3.0, 5.0
"""Points that a check may lose, and how many times faster the student should be."""
PROMPTS = (
    "a red ball falls to the floor",
    "a blue box and a yellow ball float to the right",
    "a green ball rolls down a ramp to the left",
    "someone throws a purple box to the right",
)


@dataclass(frozen=True)
class Entry:
    """A model with its name, and the sampler where it is another than its own."""

    name: str
    model: VideoModel
    sampler: SamplerConfig | None = None

    @property
    def steps(self) -> int:
        """Its steps."""
        return (self.sampler or self.model.config.sampler).steps

    @property
    def sampling(self) -> dict[str, Any] | None:
        """As `evaluate_world` takes it."""
        return None if self.sampler is None else {"sampler": self.sampler.model_dump()}


def entries(teacher: str, students: Sequence[str], precision: Any, fewer: bool) -> list[Entry]:
    """The teacher, itself in as few steps as the first student's, and the students."""
    made = [Entry(name, VideoModel.load(name, device="cpu", precision=precision)) for name in (teacher, *students)]
    if fewer:
        few = made[0].model.config.sampler.model_copy(update={"steps": made[1].steps})
        made.insert(1, Entry(f"{teacher}, {few.steps} steps", made[0].model, few))
    return made


def outcomes(report: WorldReport) -> dict[str, list[bool | None]]:
    """What every generated clip passes, by check."""
    rows = [row for row in report.results if row.subject == "generated"]
    return {name: [row.passed if name == "all" else row.checks[name] for row in rows] for name in ALL}


def lost(teacher: list[bool | None], student: list[bool | None]) -> dict[str, float]:
    """The points that a student's share of passed clips lies above its teacher's, on the requests that both have."""
    pairs = [(float(a), float(b)) for a, b in zip(teacher, student, strict=True) if a is not None and b is not None]
    if not pairs:
        return {"points": 0.0, "low": 0.0, "high": 0.0}
    points, found = paired_difference([b for _, b in pairs], [a for a, _ in pairs])
    low, high = (points, points) if found is None else (found.low, found.high)
    return {"points": 100 * points, "low": 100 * low, "high": 100 * high}


def clip(entry: Entry, prompt: str, seed: int) -> Tensor:
    """A clip (1, 3, T, H, W) from a prompt, as its model is sampled."""
    words = prompt if entry.model.text_encoder is not None else None
    return entry.model.generate(words, seed=seed, sampler=entry.sampler)


def timed(found: Sequence[Entry], repeats: int, say: Callable[[str], None]) -> list[list[float]]:
    """Seconds of single clips of each entry, which take turns after one clip that is not counted."""
    seconds: list[list[float]] = [[] for _ in found]
    for turn in range(repeats + 1):
        for entry, taken in zip(found, seconds, strict=True):
            began = time.perf_counter()
            clip(entry, PROMPTS[turn % len(PROMPTS)], turn)
            if turn:
                taken.append(time.perf_counter() - began)
        say(f"timing: turn {turn} of {repeats}")
    return seconds


def drift(found: Sequence[Entry], clips: int) -> list[list[float]]:
    """PSNR of each entry's clips against the teacher's from the same noise and prompt."""
    drifts: list[list[float]] = [[] for _ in found[1:]]
    for k in range(clips):
        prompt = PROMPTS[k % len(PROMPTS)]
        theirs = clip(found[0], prompt, 100 + k)
        for entry, values in zip(found[1:], drifts, strict=True):
            values.append(float(psnr(clip(entry, prompt, 100 + k), theirs).mean()))
    return drifts


def measured(found: Sequence[Entry], options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """All of it, as a record."""
    passed: list[Any] = []
    rows: list[dict[str, Any]] = []
    for entry in found:
        say(f"{entry.name}: {options.count} requests")
        report = evaluate_world(entry.model, {"count": options.count}, batch=16, sampling=entry.sampling)
        passed.append(outcomes(report))
        shares = {
            name: {"share": share.value, "low": share.interval[0], "high": share.interval[1]}
            for name, share in report.shares().items()
        }
        made = entry.model.config.distilled
        rows.append({"model": entry.name, "steps": entry.steps, "checks": shares, "distilled": made and str(made)})
    for row, values in zip(rows[1:], drift(found, options.clips), strict=True):
        row["psnr"] = _mean(values)
    seconds = timed(found, options.repeats, say)
    for k, row in enumerate(rows):
        row["seconds"] = _mean(seconds[k])
        row["faster"] = _mean([a / b for a, b in zip(seconds[0], seconds[k], strict=True)])
        row["points"] = {name: lost(passed[0][name], passed[k][name]) for name in ALL}
        worst = min(each["points"] for name, each in row["points"].items() if name in CHECKS)
        row["aims"] = {"within 3 points": worst >= -AIM_POINTS, "5 times faster": row["faster"]["mean"] >= AIM_FASTER}
    return {"machine": machine(), "count": options.count, "precision": options.precision, "rows": rows}


def _mean(values: Sequence[float]) -> dict[str, float]:
    found = mean_interval(values)
    mean = sum(values) / len(values)
    return {"mean": mean, "low": mean if found is None else found.low, "high": mean if found is None else found.high}


def table(record: dict[str, Any]) -> list[str]:
    """The record as a table of Markdown."""
    head = ["model", "steps", *ALL, "PSNR against the teacher", "seconds of a clip", "times faster"]
    lines = [" | ".join(["", *head, ""]).strip(), " | ".join(["", *["---"] * len(head), ""]).strip()]
    for row in record["rows"]:
        checks = [_percent(row["checks"][name]) for name in ALL]
        drifted = _number(row["psnr"], 1) if "psnr" in row else "-"
        cells = [
            row["model"],
            str(row["steps"]),
            *checks,
            drifted,
            _number(row["seconds"], 2),
            _number(row["faster"], 1),
        ]
        lines.append(" | ".join(["", *cells, ""]).strip())
    for row in record["rows"][1:]:
        change = ", ".join(
            f"{n} {p['points']:+.1f} ({p['low']:+.1f} to {p['high']:+.1f})" for n, p in row["points"].items()
        )
        aims = ", ".join(f"{aim}: {'reached' if met else 'missed'}" for aim, met in row["aims"].items())
        lines.append(f"{row['model']} in {row['steps']} steps, points beside the teacher: {change}; {aims}")
    return lines


def _percent(share: dict[str, float]) -> str:
    return f"{100 * share['share']:.1f} ({100 * share['low']:.1f}-{100 * share['high']:.1f})"


def _number(found: dict[str, float], digits: int) -> str:
    return f"{found['mean']:.{digits}f} ({found['low']:.{digits}f}-{found['high']:.{digits}f})"


def main(arguments: Sequence[str], say: Callable[[str], None]) -> None:
    """Measure the models that are named and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks few_steps", description=__doc__)
    parser.add_argument("teacher", help="a model folder, or a shipped model")
    parser.add_argument("students", nargs="+", help="distilled models' folders")
    parser.add_argument("--count", type=int, default=128, help="held-out requests of the toy world")
    parser.add_argument("--clips", type=int, default=16, help="clips that drift is measured on")
    parser.add_argument("--repeats", type=int, default=8, help="clips of each model that are timed")
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--plain", action="store_true", help="also the teacher itself in as few steps")
    parser.add_argument("--out", type=Path, help="where the figures go as JSON")
    options = parser.parse_args(arguments)
    if min(options.count, options.clips, options.repeats) < 1:
        raise InputError("--count, --clips and --repeats: expected numbers of at least 1")
    with torch.no_grad():
        record = measured(entries(options.teacher, options.students, options.precision, options.plain), options, say)
    print("\n".join(table(record)))
    if options.out is not None:
        write_text(options.out, json.dumps(record, indent=1) + "\n")
