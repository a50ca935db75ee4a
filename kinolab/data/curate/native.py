"""What a clip is as stored: its size, rate and length, and how even its frames come."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from kinolab.data.curate.frames import Columns, FrameConfig, FrameSignal, Part, Score, Trace, View, Watcher, inside


class NativeConfig(FrameConfig):
    """Every frame is counted."""

    rate: None = None
    """All frames."""


class Watching(Watcher):
    """The time and size of every frame."""

    def __init__(self) -> None:
        self._columns = Columns("time", "height", "width")

    def see(self, view: View) -> None:
        """Count a frame."""
        self._columns.add(view.time, *view.image.shape[:2])

    def trace(self) -> Trace:
        """One row a frame."""
        return self._columns.trace()


class Native(FrameSignal):
    """Size, rate and length of a clip."""

    Config = NativeConfig
    scores: ClassVar[dict[str, Score]] = {
        "seconds": Score("s", "how long it is"),
        "frames": Score("frames", "how many frames it has"),
        "fps": Score("frames/s", "their rate, counted"),
        "side": Score("pixels", "its shorter side"),
        "aspect": Score("width/height", "its aspect"),
    }

    def watch(self) -> Watcher:
        """Begin a file."""
        return Watching()

    def score(self, trace: Trace, part: Part) -> dict[str, float | None]:
        """Of the frames in the part; a rate needs two."""
        found = inside(trace, part)
        time = found["time"]
        if not len(time):
            return {**dict.fromkeys(self.scores), "frames": 0.0}
        height, width = float(found["height"][0]), float(found["width"][0])
        fps = (len(time) - 1) / float(time[-1] - time[0]) if len(time) > 1 else None
        numbers = {"seconds": part.end - part.start, "frames": float(len(time)), "fps": fps}
        return {**numbers, "side": min(height, width), "aspect": width / height}

    def end(self, trace: Trace) -> float:
        """The second at which the file's last frame ends: it lasts as long as the frames do in the middle."""
        time = trace["time"]
        if len(time) < 2:
            return float(time[-1]) + 0.1 if len(time) else 0.0
        return float(time[-1] + np.median(np.diff(time)))
