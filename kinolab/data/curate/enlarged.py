"""How much larger a clip is made than it is stored."""

from __future__ import annotations

from kinolab.data.curate.base import Looked, Signal


def enlargement(clip: Looked) -> float:
    """Used pixels per stored one, along a side."""
    (h, w), (H, W) = clip.stored, clip.used
    return min(H / h, W / w) if clip.resize == "pad" else max(H / h, W / w)


class Enlarged(Signal):
    """Pixels that the picture is blown up by, where it is."""

    unit = "times"

    def value(self, clip: Looked) -> float:
        """Used pixels per stored one, along a side; below 1 it is made smaller."""
        return enlargement(clip)

    def notes(self, clip: Looked) -> list[str]:
        """An enlargement."""
        scale, (h, w) = enlargement(clip), clip.stored
        return [f"{w}x{h} enlarged {scale:.2g} times"] if scale > 1.001 else []
