"""How many scenes a clip shows; windows never cross a cut."""

from __future__ import annotations

from kinolab.data.curate.base import Looked, Signal
from kinolab.data.windows import scene_stretches


class Scenes(Signal):
    """Scenes between hard cuts."""

    unit = "scenes"

    def value(self, clip: Looked) -> float | None:
        """Their number; None where cuts were not looked for."""
        return None if clip.cuts is None else float(len(scene_stretches(clip.cuts, len(clip.times))))

    def notes(self, clip: Looked) -> list[str]:
        """More than one."""
        count = self.value(clip) or 1
        return [f"{count:.0f} scenes"] if count > 1 else []
