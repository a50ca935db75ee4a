"""Near duplicates among a project's clips, by the perceptual hash over time that `kinolab data curate` has."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from kinolab.errors import InputError
from kinolab.runtime import files
from kinolab.runtime.paths import visible
from kinolab.runtime.records import read_record, write_record
from kinolab.studio.looking import Told, untold
from kinolab.studio.project import HIDDEN

LEAST = 0.7
"""Share of bits from which on clips are told to be alike: copies that were shrunk and compressed have more, others at
most 0.56 (docs/curation.md)."""
SECONDS = 3.0
"""A call reads no further clip after so long."""
UNREADABLE = "unreadable"
"""In place of a content: the check says what is wrong with it."""
FEW = 100
"""Clips up to which every call says which are alike; of more, the last one alone."""
SETTINGS: dict[str, dict[str, Any]] = {"native": {}, "duplicates": {}}


def alike(path: str, names: list[str], seconds: float = SECONDS, told: Told = untold) -> dict[str, Any]:
    """{alike: name -> {of, share}, done, total}: the clips that are nearly an earlier one of `names`.

    What a clip shows is kept in the folder's store, by its content, and read once; that of clips that are gone goes.
    """
    from kinolab.data.curation.items import Item
    from kinolab.data.curation.scoring import score_group, sidecar
    from kinolab.data.curation.settings import ClipsConfig, built
    from kinolab.data.curation.table import make_table

    root = Path(path)
    store = root / HIDDEN / "alike"
    known, contents = _known(store / "index.json"), dict[str, str]()
    good, done, read, end = list[tuple[int, Item, str]](), 0, 0, time.monotonic() + seconds
    stored = {path.stem for path in visible(store, "*/*.safetensors")}
    for number, name in enumerate(names):
        item = Item(name, root / name, suffix=Path(name).suffix.lower())
        with suppress(OSError):  # gone since it was listed
            signature = item.signature()
            content = known.get(signature)
            if content is None and read and time.monotonic() > end:
                continue
            read += content is None
            if content != UNREADABLE and content not in stored:  # else the store has it, by these settings
                content = score_group([(item, content)], SETTINGS, store)[0].content or UNREADABLE
            contents[signature] = content
            if content != UNREADABLE:
                good.append((number, item, content))
        done += 1
        told(done, len(names))
    if contents != known:
        write_record(store / "index.json", {"contents": contents, "of": SETTINGS})
    for gone in stored - set(contents.values()):
        files.remove(sidecar(store, gone))
    if done < len(names) and done > FEW:
        return {"alike": {}, "done": done, "total": len(names)}
    rows = make_table(good, store, built(SETTINGS), ClipsConfig(cut=False, min_seconds=0.0, crop_bars=False))
    found = {
        row.name: {"of": row.like, "share": round(share, 3)}
        for row in rows if row.like is not None and (share := row.scores["duplicate"] or 0.0) >= LEAST
    }  # fmt: skip
    return {"alike": found, "done": done, "total": len(names)}


def _known(path: Path) -> dict[str, str]:
    """The content of each clip that was read before, by what tells that it is that file."""
    try:
        record = read_record(path)
        if record.values.get("of") != SETTINGS:
            return {}
        return {str(name): str(value) for name, value in record.record("contents").values.items()}
    except (InputError, OSError):
        return {}
