"""What becomes of one file of a folder of clips: the windows that it is cut into, and the verdict that says so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from kinolab.contracts.examples import Split, Verdict
from kinolab.data.annotations import Annotations
from kinolab.data.scan import ScannedFile
from kinolab.data.windows import Timeline, cut, scene_stretches, timeline

if TYPE_CHECKING:
    from kinolab.data.folder import FolderSource


@dataclass(frozen=True, eq=False)
class Window:
    """One window: its file, the stored frame numbers it is made of, (T,), and its (height, width)."""

    file: ScannedFile
    index: np.ndarray
    fps: float
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height, width."""
        return len(self.index), *self.size


def judge(file: ScannedFile, source: FolderSource) -> tuple[Verdict, list[Window]]:
    """The windows of one file, with what was dropped and what is to be known."""
    config = source.config
    if not file.times:
        return Verdict(file.name, 0, dropped=(file.damage or "no frames",)), []
    buckets = source.buckets
    if file.image:
        if config.images == "drop" or (config.images == "auto" and 1 not in buckets.lengths):
            return Verdict(file.name, 0, dropped=("a still image; images: use keeps it as one frame",)), []
        size = buckets.size(1, file.size)
        window = Window(file, np.zeros(1, int), config.fps or 1.0, size)
        values, notes = source.signals(file, size)
        return Verdict(file.name, 1, notes=tuple(notes), signals=values), [window]
    dropped: list[str] = []
    if file.damage:
        dropped.append(f"everything after {file.times[-1]:.1f} s: {file.damage}")
    times = np.asarray(file.times)
    windows: list[Window] = []
    stretches = scene_stretches(file.cuts or (), len(times))
    lines = [timeline(times, config.fps, first, last).every(config.interval) for first, last in stretches]
    left = 0
    used = max((buckets.longest(len(line.index)) or 1 for line in lines), default=1)
    values, notes = source.signals(file, buckets.size(used, file.size))
    for line in lines:
        frames = buckets.longest(len(line.index))
        if frames is None:
            left += len(line.index)
            continue
        cuts, rest = cut(line, frames, config.stride or frames)
        for length in buckets.lengths if config.lengths == "all" else [frames]:
            if length <= frames:
                size = buckets.size(length, file.size)
                windows += [Window(file, index[:length], line.fps, size) for index in cuts]
        left += rest
    if not windows:
        longest = max(lines, key=lambda line: len(line.index))
        verdict, windows = _judge_short(file, source, longest, [*dropped], notes)
        return replace(verdict, signals=values), windows
    if left > 0:
        dropped.append("1 frame that fills no window" if left == 1 else f"{left} frames that fill no window")
    return Verdict(file.name, len(windows), dropped=tuple(dropped), notes=tuple(notes), signals=values), windows


def _judge_short(
    file: ScannedFile, source: FolderSource, line: Timeline, dropped: list[str], notes: list[str]
) -> tuple[Verdict, list[Window]]:
    """A file whose longest stretch fills no window."""
    scene = " in its longest scene" if file.cuts else ""
    at = f" at {line.fps:.4g} fps" if source.config.fps is not None else ""
    at += f" ({source.config.interval} frames apart)" if source.config.interval > 1 else ""
    shortest = min([n for n in source.buckets.lengths if n > 1] or source.buckets.lengths)
    reason = f"too short: {len(line.index)} frames{at}{scene}, a window has {shortest}"
    if source.config.short == "image":
        notes.append(f"{reason}; its first frame is used as an image")
        window = Window(file, line.index[:1], line.fps, source.buckets.size(1, file.size))
        return Verdict(file.name, 1, dropped=tuple(dropped), notes=tuple(notes)), [window]
    return Verdict(file.name, 0, dropped=(reason, *dropped), notes=tuple(notes)), []


def with_facts(verdict: Verdict, file: ScannedFile, split: Split, annotations: Annotations) -> Verdict:
    """A verdict with what is known of its file."""
    times = file.times
    return Verdict(
        source=file.name,
        kept=verdict.kept,
        split=split,
        dropped=verdict.dropped,
        notes=verdict.notes,
        signals=verdict.signals,
        frames=len(times) or None,
        fps=(len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else None,
        size=file.size if times else None,
        caption=annotations.captions.get(file.name),
        label=annotations.labels.get(file.name),
        alternatives=annotations.alternatives.get(file.name, ()),
    )
