"""A model that stays in memory from one request to the next, in a process that makes one video after the other.

Loading takes longer than sampling a small model, so a sampler that stays (the studio's) keeps the last model. A request
finds it where folder, files, device and precision are the same; what a request puts on it (adapters, control networks)
is put on a copy, so that the next one finds it as it was. Nothing is kept unless `keep` was called.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kinolab.models import VideoModel, find_model
from kinolab.runtime.paths import visible


class _Kept:
    """The one model that is kept, and what it is."""

    keeping = False
    what: tuple[Any, ...] | None = None
    model: VideoModel | None = None


def keep(on: bool = True) -> None:
    """Keep models from now on, or no longer; what was kept goes."""
    _Kept.keeping, _Kept.what, _Kept.model = on, None, None


def keeping() -> bool:
    """Whether models are kept: then what is loaded must stay as it is."""
    return _Kept.keeping


def load(name: str, *, device: str, precision: Any, compiled: bool = False) -> VideoModel:
    """`VideoModel.load`, or the model that is kept, where it is the same one.

    compiled: whether the request compiles it; a compiled model is another.

    Raises:
        InputError: as `VideoModel.load`.
    """
    if not _Kept.keeping:
        return VideoModel.load(name, device=device, precision=precision)
    what = (*_files(find_model(name)), str(device), str(precision), compiled)
    if _Kept.model is None or _Kept.what != what:
        _Kept.what = _Kept.model = None  # before the next one takes memory
        model = VideoModel.load(name, device=device, precision=precision)
        _Kept.what, _Kept.model = what, model
    return _Kept.model


def _files(folder: Path) -> tuple[Any, ...]:
    """What tells the files of a model folder apart without reading them."""
    stamps = ((path, path.stat()) for path in visible(folder, "**/*") if path.is_file())
    return (str(folder), *((str(path), s.st_size, s.st_mtime_ns, s.st_ino) for path, s in stamps))
