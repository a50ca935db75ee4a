"""What the helper says of weights: what a file or folder is, as `kinolab inspect` says it."""

from __future__ import annotations

from typing import Any


def look(path: str) -> dict[str, Any]:
    """What weights are, in the lines of `kinolab inspect`."""
    from kinolab.checkpoints import inspect
    from kinolab.cli.inspect import describe, locate

    found = inspect(locate(path))
    return {"title": found.title, "parameters": found.parameters, "lines": list(describe(found))}
