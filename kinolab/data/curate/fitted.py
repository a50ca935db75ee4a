"""What a clip of another aspect loses on its way to the size that is asked for."""

from __future__ import annotations

from kinolab.data.curate.base import Looked, Signal

WORTH = 0.2
"""A share of the picture below which nothing is said."""


class Fitted(Signal):
    """The share of the picture that is cropped, of the window that is padding, or by which it is squeezed."""

    unit = "share"

    def value(self, clip: Looked) -> float:
        """The share, 0 where the aspects are the same."""
        (h, w), (H, W) = clip.stored, clip.used
        return 1 - min(H / h, W / w) / max(H / h, W / w)

    def notes(self, clip: Looked) -> list[str]:
        """A share that shows."""
        lost = self.value(clip)
        if lost <= WORTH:
            return []
        said = {"crop": f"crop loses {lost:.0%} of the picture", "pad": f"{lost:.0%} of the window is padding"}
        return [said.get(clip.resize, f"stretched by {1 / (1 - lost):.2g}")]
