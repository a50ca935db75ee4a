"""`python -m benchmarks.curation`: what each signal of `kinolab data curate` finds where the truth is known.

Clips of the toy world with one thing wrong in each (`spoilt.py`) are written as H.264, traced, and held against the
thresholds that docs/curation.md recommends. Precision counts all other clips too: those that are fine, that a camera
pans over, and those with something else wrong. `--clips N` of each kind, `--seed` of the first, `--detector`, `--text`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.spoilt import FPS, WRONG, Spoilt, spoil
from kinolab import video
from kinolab.data.curate.cuts import Cuts
from kinolab.data.curate.duplicates import Duplicates, likeness
from kinolab.data.curate.frames import Part, Trace
from kinolab.data.curate.native import Native
from kinolab.data.curation.scoring import trace
from kinolab.data.curation.settings import Chosen, CurateConfig, chosen

KINDS = ("fine", "panned", *WRONG, "cut", "dissolve")
KEEP: dict[str, tuple[str, str, float]] = {
    "still": ("motion", "min", 0.0005),
    "shaken": ("jitter", "max", 0.012),
    "text": ("text", "max", 0.03),
    "blurred": ("sharpness", "min", 0.45),
    "dark": ("brightness", "min", 0.12),
    "burnt": ("clipped", "max", 0.5),
    "blocks": ("blocks", "max", 1.0),
    "bars": ("bars", "max", 0.02),
}
"""What is wrong -> the score that tells it, the side, and the threshold that docs/curation.md recommends."""
NEAR = 1
"""Frames by which a hard cut may be off."""


@dataclass(frozen=True)
class Clip:
    """A clip with what is known of it and what was traced."""

    truth: Spoilt
    traces: dict[str, Trace]
    scores: dict[str, float | None]
    end: float


def make(kinds: Sequence[str], count: int, seed: int, signals: Chosen) -> list[Clip]:
    """The clips of each kind, traced from files."""
    clips = []
    native = signals["native"]
    assert isinstance(native, Native)
    with tempfile.TemporaryDirectory() as room:
        for kind in kinds:
            for k in range(count):
                truth, path = spoil(kind, seed + k), Path(room) / f"{kind}-{k}.mp4"
                video.write(path, truth.frames, FPS, quality=95 if kind != "copied" else 60)
                traces, _ = trace(path, signals)
                end = native.end(traces["native"])
                scores: dict[str, float | None] = {}
                for name, signal in signals.items():
                    scores |= signal.score(traces[name], Part(0.0, end))
                clips.append(Clip(truth, traces, scores, end))
    return clips


def thresholds(clips: Sequence[Clip]) -> list[dict[str, Any]]:
    """Of each thing that is wrong: precision and recall at the threshold, and how well the score orders (AUC)."""
    rows = []
    whole = [c for c in clips if c.truth.wrong not in ("cut", "dissolve")]
    for wrong, (score, side, limit) in KEEP.items():
        values = np.array([c.scores[score] if c.scores[score] is not None else np.nan for c in whole], float)
        truth = np.array([c.truth.wrong == wrong for c in whole])
        found = values < limit if side == "min" else values > limit
        bad, good = values[truth], values[~truth]
        signed = -1.0 if side == "min" else 1.0
        order = (signed * bad[:, None] > signed * good[None]).mean() + 0.5 * (bad[:, None] == good[None]).mean()
        by = {k: int((found & np.array([c.truth.wrong == k for c in whole])).sum()) for k in KINDS if k != wrong}
        rows.append(
            {
                "wrong": wrong, "score": score, "threshold": f"{'<' if side == 'min' else '>'} {limit:g}",
                "precision": share(int((found & truth).sum()), int(found.sum())),
                "recall": share(int((found & truth).sum()), int(truth.sum())), "auc": float(order),
                "clips": int(truth.sum()), "others": int((~truth).sum()), "false": {k: n for k, n in by.items() if n},
            }
        )  # fmt: skip
    return rows


def share(part: int, whole: int) -> float:
    """A share; 1 of nothing."""
    return part / whole if whole else 1.0


def cuts(clips: Sequence[Clip], signal: Cuts) -> list[dict[str, Any]]:
    """Of hard and slow cuts: how many were found, and how many of those found in all clips are some."""
    rows = []
    for kind in ("cut", "dissolve"):
        hit = wanted = found = 0
        where: dict[str, int] = {}
        for clip in clips:
            if clip.truth.wrong in ("cut", "dissolve") and clip.truth.wrong != kind:
                continue
            places = gaps(signal.parts(clip.traces["cuts"], clip.end), clip.end)
            truth = clip.truth.cuts
            right = [p for p in places if any(p[0] <= b + NEAR and p[1] >= a - NEAR for a, b in truth)]
            wanted, found = wanted + len(truth), found + len(places)
            hit += sum(any(p[0] <= b + NEAR and p[1] >= a - NEAR for p in places) for a, b in truth)
            if len(places) > len(right):
                where[clip.truth.wrong] = where.get(clip.truth.wrong, 0) + len(places) - len(right)
        wrong = sum(where.values())
        rows.append(
            {
                "wrong": kind, "score": "cuts", "threshold": "-", "precision": share(found - wrong, found),
                "recall": share(hit, wanted), "auc": None, "clips": wanted, "others": len(clips) - wanted,
                "false": where,
            }
        )  # fmt: skip
    return rows


def gaps(parts: Sequence[Part], end: float) -> list[tuple[int, int]]:
    """First and last frame of what lies between the scenes of a clip."""
    edges = [(a.end, b.start) for a, b in pairwise(parts)]
    if parts and parts[-1].end < end - 1e-6:
        edges.append((parts[-1].end, end))
    return [(round(a * FPS), round(b * FPS)) for a, b in edges]


def duplicates(clips: Sequence[Clip], copies: Sequence[Clip], signal: Duplicates, limit: float) -> dict[str, Any]:
    """Fine clips, then copies of them: whether each copy is found, and nothing else."""
    fine = [c for c in clips if c.truth.wrong == "fine"]
    prints = [signal.print_of(c.traces["duplicates"], Part(0.0, c.end)) for c in (*fine, *copies)]
    found = [(alike, which) for alike, which in likeness(prints)]
    hits = [k for k, (alike, which) in enumerate(found) if alike > limit]
    right = [k for k in hits if k >= len(fine) and found[k][1] == k - len(fine)]
    best = [alike for alike, _ in found[: len(fine)]]
    return {
        "wrong": "duplicate", "score": "duplicate", "threshold": f"> {limit:g}",
        "precision": share(len(right), len(hits)), "recall": share(len(right), len(copies)), "auc": None,
        "clips": len(copies), "others": len(fine), "false": {"most of others": round(max(best), 3)},
    }  # fmt: skip


def measure(count: int, seed: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """All rows of the table."""
    signals = chosen(CurateConfig(signals=settings))
    clips = make(KINDS, count, seed, signals)
    copies = make(["copied"], count, seed, signals)
    found = signals["cuts"], signals["duplicates"]
    assert isinstance(found[0], Cuts) and isinstance(found[1], Duplicates)
    return [*cuts(clips, found[0]), *thresholds(clips), duplicates(clips, copies, found[1], 0.7)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curation", description=__doc__)
    parser.add_argument("--clips", type=int, default=20, help="of each kind")
    parser.add_argument("--seed", type=int, default=100, help="of the first clip")
    parser.add_argument("--detector", default="kinolab", help="kinolab, pyscenedetect or transnetv2")
    parser.add_argument("--text", default="edges", help="edges or rapidocr")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    given = parser.parse_args()
    rows = measure(given.clips, given.seed, {"cuts": {"detector": given.detector}, "text": {"by": given.text}})
    for row in rows:
        if given.json:
            print(json.dumps(row))
            continue
        auc = "" if row["auc"] is None else f"  AUC {row['auc']:.3f}"
        print(
            f"{row['wrong']:<10} {row['score']:<10} {row['threshold']:>8}  precision {row['precision']:.3f}  "
            f"recall {row['recall']:.3f}{auc}  of {row['clips']} and {row['others']} others  {row['false'] or ''}"
        )


if __name__ == "__main__":
    main()
