"""The events of a command's work, for a person and for the file of `--events` (`kinolab.cli.options.watch`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kinolab.contracts.events import EventLines
from kinolab.runtime.progress import Reporter


class Watch(Reporter):
    """A reporter that also writes down what it hears, where that is asked for."""

    before: Callable[[], None]
    lines: EventLines | None
    notes: Callable[[str], None] | None

    def take(self, before: Callable[[], None], lines: EventLines | None, notes: Callable[[str], None] | None) -> None:
        """What is called before the first progress, the file of events, and what takes notes in place of the bar."""
        self.before, self.lines, self.notes = before, lines, notes
        if lines is not None:
            lines.stage(self.title, self.unit)

    def progress(self, done: int, total: int) -> None:
        """To the terminal and the file."""
        self.before()
        super().progress(done, total)
        if self.lines is not None:
            self.lines.progress(done, total)

    def note(self, text: str) -> None:
        """To the terminal and the file."""
        if self.notes is None:
            super().note(text)
        else:
            self.notes(text)
        if self.lines is not None:
            self.lines.note(text)

    def expect(self, cost: Any, by: str = "", cheaper: Callable[[float], str] | None = None) -> None:
        """To the terminal and the file."""
        super().expect(cost, by, cheaper)
        if self.lines is not None:
            self.lines.expect(cost, by, cheaper)

    def losses(self, step: int, numbers: Mapping[str, float], of: Any = "step") -> None:
        """To the file."""
        if self.lines is not None:
            self.lines.losses(step, numbers, of)

    def wrote(self, path: Path, what: str = "file") -> None:
        """To the file; a person is told at the end."""
        if self.lines is not None:
            self.lines.wrote(path, what)
