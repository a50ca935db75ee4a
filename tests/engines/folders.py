"""What lies in a folder, to be compared byte for byte."""

from __future__ import annotations

from pathlib import Path

WHO = (".lock", "lock", ".working.json")
"""Files that say who works there, or did last."""


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its name, temporary ones too; but for those that say who worked on it last."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in WHO
    }
