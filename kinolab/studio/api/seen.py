"""What any picture or video of the project holds: the page steps by its frames and draws masks on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kinolab.studio.api.asked import Asked, NotThereError, Studio
from kinolab.studio.api.footage import CLIPS


def seen(studio: Studio, asked: Asked) -> Any:
    """GET /api/seen/{path} -> {width, height, frames, fps, seconds, ...}: what a clip or made video holds."""
    name = asked.path["path"]
    path = studio.project.path(name)
    hidden = any(part.startswith(".") for part in Path(name).parts)
    if hidden or path.suffix.lower() not in CLIPS or not path.is_file():
        raise NotThereError("no such picture or video")
    return studio.looking.ask("probe", {"path": str(path)})
