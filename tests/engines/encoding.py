"""Numbered clips, their source and their encoding, small: what every engine has to do alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kinolab.contracts.engine import Engine
from kinolab.data import EncodeSummary, FolderConfig, FolderSource, encode_to_cache
from tests.data.clip_files import MeanAutoencoder, write_numbered


def write_clips(folder: Path, count: int) -> Path:
    """Clips of three windows each; the folder."""
    for mark in range(count):
        write_numbered(folder / f"{mark}.mkv", 17, mark=40 * mark)
    return folder


def source(path: Path | str, by: Engine | None = None, **settings: Any) -> FolderSource:
    """The windows of a folder, on both sides of the split."""
    values = {"path": path, "size": 16, "frames": 5, "split": "all", "index": "none"} | settings
    return FolderSource(FolderConfig.model_validate(values), MeanAutoencoder().spec, allow_empty=True, engine=by)


def encode(path: Path | str, out: Path, by: Engine | None = None, **more: Any) -> EncodeSummary:
    """Encode them, two at once; two windows to a shard."""
    values = {"batch": 2, "shard_size": 2} | more
    return encode_to_cache(source(path), MeanAutoencoder(), out, engine=by, **values)
