"""What the reader of a clip noticed about its pictures: combs of interlacing, high dynamic range, damage."""

from __future__ import annotations

from kinolab.data.curate.base import Looked, Signal


class Remarks(Signal):
    """How many things the reader noticed."""

    def value(self, clip: Looked) -> float:
        """Their number."""
        return float(len(clip.remarks))

    def notes(self, clip: Looked) -> list[str]:
        """Each of them; an image's are about the file and not about how it is used."""
        return [] if clip.image else list(clip.remarks)
