"""What the helper says of captions that stand in tables, and how it writes them back."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def told(path: str) -> dict[str, Any]:
    """The captions that tables of a folder tell: {captions: {clip: [caption, ...]}, tables: {clip: its table}}."""
    from kinolab.data.annotations import told_by_tables
    from kinolab.data.scan import find_clips

    captions: dict[str, list[str]] = {}
    tables: dict[str, str] = {}
    for table in told_by_tables(Path(path), find_clips(Path(path))[0]):
        for clip, texts in table.captions.items():
            if texts and clip not in captions:
                captions[clip], tables[clip] = list(texts), table.path.name
    return {"captions": captions, "tables": tables}


def retell(path: str, captions: dict[str, list[str]]) -> dict[str, str]:
    """Write captions into the tables that tell them: the table of each clip that one tells."""
    from kinolab.data.retelling import retell as write
    from kinolab.data.scan import find_clips

    return write(Path(path), find_clips(Path(path))[0], captions)
