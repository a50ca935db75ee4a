"""Every command of the program by its whole name, and its exit status when it is run in this process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kinolab.cli import main


def run(*words: object) -> int:
    """A command's exit status."""
    with pytest.raises(SystemExit) as stop:
        main([str(w) for w in words])
    return int(stop.value.code or 0)


def commands(group: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its whole name."""
    for key, command in getattr(group, "commands", {}).items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name}{key} ")
        else:
            yield f"{name}{key}", command
