"""Events that a test hears, and that stop where it says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kinolab.contracts.events import Losses, Silent


class Listening(Silent):
    """Keeps all that it is told; asks to stop once so many pieces of progress were told."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.notes: list[str] = []
        self.told: list[tuple[int, int]] = []
        self.numbers: list[tuple[str, int, dict[str, float]]] = []
        self.files: list[tuple[str, Path]] = []

    @property
    def stopping(self) -> bool:
        return self.stop_after is not None and len(self.told) >= self.stop_after

    def progress(self, done: int, total: int) -> None:
        self.told.append((done, total))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def losses(self, step: int, numbers: Mapping[str, float], of: Losses = "step") -> None:
        self.numbers.append((of, step, dict(numbers)))

    def wrote(self, path: Path, what: str = "file") -> None:
        self.files.append((what, path))
