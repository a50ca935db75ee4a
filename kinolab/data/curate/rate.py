"""The rate of a clip, and how it is re-timed."""

from __future__ import annotations

import numpy as np

from kinolab.data.curate.base import Looked, Signal
from kinolab.data.windows import frame_interval


class Rate(Signal):
    """Frames per second as stored, counted."""

    unit = "frames/s"

    def value(self, clip: Looked) -> float | None:
        """The rate; None for one frame."""
        if frame_interval(np.asarray(clip.times)) <= 0:
            return None
        return (len(clip.times) - 1) / float(clip.times[-1] - clip.times[0])

    def notes(self, clip: Looked) -> list[str]:
        """Which frames another rate repeats or leaves out."""
        stored, fps = self.value(clip), clip.fps
        if stored is None or fps is None:
            return []
        if fps > 1.01 * stored:
            return [f"re-timed from {stored:.4g} to {fps:.4g} fps: frames repeat"]
        if fps < 0.99 * stored:
            return [f"re-timed from {stored:.4g} to {fps:.4g} fps: 1 of {stored / fps:.3g} frames used"]
        return [f"{stored:.4g} fps taken as {fps:.4g}"] if abs(fps - stored) > 1e-3 * fps else []
