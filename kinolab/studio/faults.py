"""What can't be read: said in one line where it would stand, so that nothing is left out of a list without a word."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from kinolab.errors import InputError
from kinolab.studio.project import Project

T = TypeVar("T")


def tried(project: Project, read: Callable[[], T]) -> tuple[T | None, str]:
    """What a reading gives and "", or None and the one line that says what is wrong; paths as the page names them."""
    try:
        return read(), ""
    except (InputError, OSError) as error:
        return None, project.said(error)


def left_out(project: Project, lines: list[str]) -> str:
    """One line about lines of a file that were left out, of which each is told; "" for none."""
    if not lines:
        return ""
    more = f", and {len(lines) - 1} more lines" if len(lines) > 1 else ""
    return f"left out: {project.said(lines[0])}{more}"
