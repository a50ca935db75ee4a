"""The table: every clip of every video with its numbers, made from stored traces alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kinolab.data.curate.bars import Bars
from kinolab.data.curate.cuts import Cuts
from kinolab.data.curate.duplicates import Duplicates, likeness
from kinolab.data.curate.frames import Part, Trace
from kinolab.data.curate.native import Native
from kinolab.data.curation.items import Item
from kinolab.data.curation.scoring import read_traces
from kinolab.data.curation.settings import Chosen, ClipsConfig

DIGITS = 6
"""Significant digits of a number in the table."""


@dataclass(frozen=True)
class Row:
    """One clip: the number of its video in the source, its content, its part, its crop, and its numbers by score."""

    number: int
    item: Item
    content: str
    part: Part
    whole: bool
    crop: tuple[float, float, float, float] | None
    scores: Mapping[str, float | None]
    like: str | None = None
    damage: str | None = None
    reasons: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """The clip's name: its video's, with the seconds that it takes of it where that is not all."""
        return self.item.name if self.whole else f"{self.item.name}#{self.part.start:.3f}-{self.part.end:.3f}"

    def values(self) -> dict[str, Any]:
        """As one line of the table."""
        known: dict[str, Any] = {"clip": self.name, "source": self.item.name, "content": self.content}
        known |= {"start": rounded(self.part.start), "end": rounded(self.part.end)}
        known |= {"crop": [rounded(v) for v in self.crop] if self.crop else None}
        known |= {name: rounded(value) for name, value in self.scores.items()}
        known |= {"duplicate_of": self.like, "damage": self.damage, "caption": self.item.caption}
        return known | {"kept": not self.reasons, "dropped": list(self.reasons)}


def rounded(value: float | None) -> float | None:
    """A number to so many significant digits: the last bits are no one's business and differ between machines."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")


def parts_of(traces: Mapping[str, Trace], signals: Chosen, clips: ClipsConfig) -> Iterator[tuple[Part, bool]]:
    """The parts of a video that become clips, and whether one is all of it."""
    native = signals["native"]
    assert isinstance(native, Native)
    times = traces["native"]["time"]
    end = native.end(traces["native"])
    begin = float(times[0]) if len(times) else 0.0
    scenes = [Part(begin, end)]
    if clips.cut:
        cuts = signals["cuts"]
        assert isinstance(cuts, Cuts)
        scenes = cuts.parts(traces["cuts"], end)
    for scene in scenes:
        first = scene.start + clips.trim * (scene.start > begin)
        last = scene.end - clips.trim * (scene.end < end)
        pieces = 1
        if clips.max_seconds is not None:
            pieces = max(1, math.ceil((last - first) / clips.max_seconds - 1e-6))
        for k in range(pieces):
            part = Part(first + (last - first) * k / pieces, first + (last - first) * (k + 1) / pieces)
            if part.end - part.start >= clips.min_seconds - 1e-6:
                yield part, part.start <= begin and part.end >= end


def make_table(videos: Iterable[tuple[int, Item, str]], store: Path, signals: Chosen, clips: ClipsConfig) -> list[Row]:
    """A row for each clip, in the order of the videos.

    videos: number, item and content's hash of each video whose traces are stored.
    """
    rows: list[Row] = []
    prints: list[np.ndarray] = []
    alike = signals.get("duplicates")
    for number, item, content in videos:
        stored = read_traces(store, content, signals)
        for part, whole in parts_of(stored.traces, signals, clips):
            told = Part(part.start, part.end, item.caption)
            scores: dict[str, float | None] = {}
            for name, signal in signals.items():
                scores |= signal.score(stored.traces[name], told)
            crop = None
            bars = signals.get("bars")
            if isinstance(bars, Bars) and clips.crop_bars:
                crop = bars.crop(stored.traces["bars"], part)
                crop = None if crop is None or crop[2] * crop[3] > 0.999 else crop
            rows.append(Row(number, item, content, part, whole, crop, scores, damage=stored.damage))
            if isinstance(alike, Duplicates):
                prints.append(alike.print_of(stored.traces["duplicates"], part))
    if not isinstance(alike, Duplicates):
        return rows
    return [_liked(row, rows, *found) for row, found in zip(rows, likeness(prints), strict=True)]


def _liked(row: Row, rows: list[Row], alike: float, which: int | None) -> Row:
    """The row with its likeness to an earlier one."""
    like = rows[which].name if which is not None else None
    return replace(row, scores={**row.scores, "duplicate": alike}, like=like)
