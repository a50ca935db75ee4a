"""The folder of a run that is to begin: nobody's, or what an interrupted preparation of it left."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from kinolab.errors import InputError
from kinolab.runtime.paths import visible


def check_unused(folder: Path, left: Collection[str]) -> None:
    """Raises InputError where a folder holds a run already, or anything but what an interrupted call left in it."""
    if (folder / "recipe.yaml").exists():
        raise InputError(f"{folder}: holds a run already; pass --resume to go on with it, or name another folder")
    if folder.is_file() or (folder.is_dir() and any(Path(entry).name not in left for entry in visible(folder))):
        raise InputError(f"{folder}: exists; choose another name")
