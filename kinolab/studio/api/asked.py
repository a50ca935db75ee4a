"""What every answer begins with: the studio that is asked, and what was asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kinolab.errors import InputError
from kinolab.runtime.lines import shown
from kinolab.runtime.records import Record
from kinolab.studio.helper import Helper
from kinolab.studio.project import Project


class NotThereError(InputError):
    """What was asked for is not there."""


class Studio:
    """A project, and the helpers that read what lies in it.

    Each kind of question has a helper of its own, so that a poster does not wait for a data check.
    """

    def __init__(self, project: Project) -> None:
        self.project = project
        self.looking = Helper(project.folder)
        self.copying = Helper(project.folder)
        self.checking = Helper(project.folder)
        self.recipes = Helper(project.folder)
        self.told: tuple[str, Mapping[str, Any]] = "", {}
        """What tables of captions told when they were last read, and a mark of how they were then."""
        self.curations: dict[Path, tuple[Any, tuple[Any, str]]] = {}
        """What curations told when they were last read, each with a mark of how it was then."""

    @property
    def helpers(self) -> tuple[Helper, ...]:
        """All of them."""
        return self.looking, self.copying, self.checking, self.recipes

    def doing(self) -> list[dict[str, Any]]:
        """What the helpers are at, and what waits for them: {what, of, began, done, total} of each."""
        return [asdict(each) for helper in self.helpers for each in helper.doing]

    def rest(self) -> None:
        """End the helpers that nobody has asked for long."""
        for helper in self.helpers:
            helper.rest()

    def close(self) -> None:
        """End the helpers."""
        for helper in self.helpers:
            helper.close()


@dataclass(frozen=True)
class Asked:
    """A request: what stands in its path and behind it, and the values of its body."""

    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Record

    def number(self, name: str, default: int) -> int:
        """A whole number behind the path.

        Raises:
            InputError: for what is none.
        """
        text = self.query.get(name, "")
        if not text:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 16):
            raise InputError(f"{name}: expected a whole number, got {shown(text)}")
        return int(text)

    def values(self) -> dict[str, Any]:
        """The body's `values`: options by name."""
        return self.body.record("values", {}).values
