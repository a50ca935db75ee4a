"""Whether a clip's frames come at even times."""

from __future__ import annotations

import numpy as np

from kinolab import video
from kinolab.data.curate.base import Looked, Signal
from kinolab.data.windows import frame_interval, is_regular


class Regular(Signal):
    """Frames that are missing between the first and the last, by the times of the others."""

    unit = "frames"

    def value(self, clip: Looked) -> float | None:
        """The number of missing frames; None for one frame."""
        if frame_interval(np.asarray(clip.times)) <= 0:
            return None
        return float(sum(number for _, number in video.missing_frames(list(clip.times))))

    def notes(self, clip: Looked) -> list[str]:
        """That frames are missing, or that the rate varies."""
        times = np.asarray(clip.times)
        if frame_interval(times) <= 0 or is_regular(times):
            return []
        missing = video.missing_frames(times.tolist())
        count = sum(number for _, number in missing)
        said = "variable frame rate"
        if missing:
            said = f"{count} frame{'s' * (count > 1)} missing, the first after {missing[0][0]:.2f} s"
        return [said if clip.fps is not None else f"{said}, frames taken as stored"]
