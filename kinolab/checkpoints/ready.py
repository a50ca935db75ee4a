"""Whole public models where a model folder is expected: converted once, into a folder that is found again.

What was converted lies in ~/.cache/kinolab/models, under its name and a hash of what it was made of (the names, sizes
and times of its files, and the version of Kinolab). It is a model folder like any other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kinolab import __version__
from kinolab.checkpoints.checkpoint_text import tokenizer_beside
from kinolab.checkpoints.pipelines import is_pipeline, read_checkpoint, read_pipeline
from kinolab.contracts.events import Listener, events_of
from kinolab.errors import InputError
from kinolab.models.folder import SET
from kinolab.runtime.hashes import json_sha256
from kinolab.runtime.paths import named, visible
from kinolab.runtime.sets import located

DIGITS = 8
"""Of the hash in a folder's name."""


def converted_models() -> Path:
    """Where what was converted lies."""
    return Path.home() / ".cache" / "kinolab" / "models"


def ready_model(path: Path | str, events: Listener = None, *, place: Path | None = None) -> Path:
    """The model folder of a pipeline of diffusers, or of a checkpoint with all parts, made where it is missing.

    place: the folder of converted models; none = `converted_models`. A note says where the model is; `kinolab convert`
    writes one under a name of its own, and takes what no file tells.

    Raises:
        InputError: where a part is missing or of no known format, or something has to be given to convert it.
    """
    path = Path(path)
    folder = (place or converted_models()) / f"{named(path).stem}-{_key(path)}"
    if located(folder, SET, "model.yaml").exists():
        return folder
    events_of(events).note(
        f"{path}: a public model, converted once into {folder}; kinolab convert {path} --out FOLDER writes it elsewhere"
    )
    try:
        model = read_pipeline(path) if is_pipeline(path) else read_checkpoint(path, into=folder)
    except InputError as error:
        raise InputError(f"{error} (convert it by hand: kinolab convert {path} --out FOLDER)") from None
    if model is None:
        raise InputError(
            f"{path}: no whole model, which has a denoiser and an autoencoder; kinolab inspect {path} says what it is"
        )
    model.save(folder)
    return folder


def _key(path: Path) -> str:
    """A hash of what a model is made of, without reading it."""
    files = [p for p in visible(path, "**/*") if p.is_file()] if path.is_dir() else [path]
    told: list[Any] = [__version__, str(path.resolve()), str(tokenizer_beside(path))]
    for file in files:
        stat = file.stat()
        told.append([str(file), stat.st_size, stat.st_mtime_ns])
    return json_sha256(told)[:DIGITS]
