"""The table of what a long stream shows, on clips of which the truth is known."""

from __future__ import annotations

import numpy as np

from benchmarks.streaming import table, windows_of
from kinolab.toyworld.clips import WorldConfig, make_clip


def test_a_stream_that_loses_its_objects_says_when() -> None:
    clip = make_clip(WorldConfig(frames=17), 3)
    empty = np.full_like(clip.frames, 240)
    found = windows_of(np.concatenate([clip.frames, clip.frames, empty, empty[:5]]), clip.request, 17, clip=0)
    assert [(w.window, w.colours, w.shapes, w.count) for w in found] == [
        (0, True, True, True), (1, True, True, True), (2, False, False, False),
    ]  # fmt: skip
    head, first, _, last = table(found, fps=8, length=17)
    assert head.split()[:2] == ["seconds", "colours"]
    assert first.split() == ["0-2", "100%", "100%", "100%", "100%", "+0.0"]
    assert last.split()[:4] == ["4-6", "0%", "0%", "0%"]
    assert float(last.split()[-1]) > 0
