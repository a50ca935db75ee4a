"""The hash of a cell: of all that decides its weights, so that it is found again, and a changed plan makes another.

Fields that join a config later are left out where they say what was so before: stored cells stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from kinolab import video
from kinolab.comparison.matrix import Cell, needs
from kinolab.comparison.plan import ComparePlan, DenoiserEntry, TaskEntry
from kinolab.errors import InputError
from kinolab.evaluation.protocol import file_hash
from kinolab.generation.provenance import model_hash
from kinolab.models import find_autoencoder
from kinolab.runtime.hashes import json_sha256, sha256
from kinolab.runtime.reading import parse_json
from kinolab.runtime.remote import local


def cell_hash(plan: ComparePlan, cell: Cell) -> str:
    """sha256 over everything that decides a cell's weights.

    Raises:
        InputError: where clips or weights that it starts from are not there; names the plan's field.
    """
    budget, clips = plan.budgets[cell.budget], plan.data[cell.data]
    values: dict[str, Any] = {"seed": cell.seed, "clips": clips_hash(clips.model_dump_json())}
    if cell.kind == "denoiser":
        assert cell.denoiser is not None and cell.task is not None
        denoiser = plan.denoisers[cell.denoiser]
        values |= {
            "denoiser": _entry(denoiser),
            "initial": None if denoiser.initial is None else _weights_hash(cell.denoiser, denoiser.initial.path),
            "task": _task(plan.tasks[cell.task]),
            "budget": _as_before(budget.denoiser.model_dump(), LATER_BUDGET_FIELDS),
            "training": plan.denoiser_training,
            "cached_clips": plan.cached_clips,
        }
        if denoiser.untrained or denoiser.denoiser is None:
            values |= {"seed": None, "budget": None}
        if denoiser.path is not None:
            values |= {"training": None, "cached_clips": None, "weights": _model_hash(cell.denoiser, denoiser.path)}
    else:
        autoencoder = plan.autoencoders[cell.autoencoder]
        values |= {"entry": autoencoder.model_dump(mode="json"), "training": plan.autoencoder_training}
        values |= {"budget": _as_before(budget.autoencoder.model_dump(), LATER_BUDGET_FIELDS)}
        if (path := autoencoder.path) is not None:
            values |= {"training": None, "budget": None, "weights": _autoencoder_hash(cell.autoencoder, path)}
    values["needs"] = [cell_hash(plan, other) for other in needs(plan, cell)]
    return json_sha256(values)


def _autoencoder_hash(name: str, path: str) -> str:
    """sha256 of an autoencoder that is taken as it is."""
    try:
        return file_hash(find_autoencoder(path))
    except InputError as error:
        raise InputError(f"autoencoders.{name}.path: {error}") from None


def _model_hash(name: str, path: str) -> str:
    """sha256 of a finished model that is taken as it is."""
    try:
        return model_hash(path)
    except InputError as error:
        raise InputError(f"denoisers.{name}.path: {error}") from None


def _weights_hash(name: str, path: Path) -> str:
    """sha256 of the weights that a denoiser starts from: a run or model folder's, or public weights, file or folder."""
    try:
        return model_hash(str(path))
    except InputError as error:
        if not path.is_file() and not (path / "config.json").is_file():
            raise InputError(f"denoisers.{name}.initial.path: {error}") from None
        return file_hash(path)


LATER_FIELDS: dict[str, Any] = {"bad_rows": "error", "deinterlace": False}
"""Fields of clips that joined later, with the values that change nothing: the cells of before keep their hashes."""
LATER_DENOISER_FIELDS: dict[str, dict[str, Any]] = {
    "": {"vectors": {}, "fields": {}}, "vdt": {"qk_norm": False}, "latte": {"reach": "own"},
    "mmdit": {"reach": "own", "given": "none", "mask_channels": 1}, "imagen_video": {"deviation": None},
}  # fmt: skip
"""The same of denoisers: of all, and by kind."""
LATER_ENTRY_FIELDS: dict[str, Any] = {"untrained": False, "weights_of": None}
"""The same of a plan's entries of denoisers."""
NO_WEIGHTS: Any = {
    "autoencoders": True, "initial": {"path"}, "path": True, "start": True, "sampling": True, "frames": True,
    "shown": True,
}  # fmt: skip
"""Fields of a denoiser's entry that say nothing of its weights, or are counted by what they name."""
LATER_BUDGET_FIELDS: dict[str, Any] = {"seconds": None}
"""The same of budgets."""


def _entry(entry: DenoiserEntry) -> dict[str, Any]:
    """What an entry says of its weights."""
    values = _as_before(entry.model_dump(mode="json", exclude=NO_WEIGHTS), LATER_ENTRY_FIELDS)
    if (denoiser := values["denoiser"]) is None:
        return values
    return values | {"denoiser": _as_before(denoiser, _later_fields(denoiser["kind"]))}


def _task(entry: TaskEntry) -> dict[str, Any]:
    return entry.model_dump(mode="json") | {"train": None if entry.train is None else entry.train.described()}


def _later_fields(kind: str) -> dict[str, Any]:
    """The fields that joined a denoiser's later."""
    return LATER_DENOISER_FIELDS[""] | LATER_DENOISER_FIELDS.get(kind, {})


def _as_before(values: dict[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Values without the fields that joined later, where these change nothing."""
    return {name: v for name, v in values.items() if name not in later or v != later[name]}


@cache
def clips_hash(config: str) -> str:
    """sha256 over what is trained on: the settings, and of a folder the content of its files instead of its place."""
    values = parse_json(config, "clips")
    place = values.pop("path", None)
    if place is not None:
        values["content"] = folder_content(Path(place))
    for name in ("split", "index", "in_memory", "disk_gb"):
        values.pop(name, None)
    return json_sha256(_as_before(values, LATER_FIELDS))


def folder_content(folder: Path) -> str:
    """sha256 over the contents of a folder's files, whatever they are called; hidden ones don't count.

    Raises:
        InputError: where there is no such folder, or a store doesn't answer.
    """
    folder = local(folder)
    if not folder.exists():
        raise InputError(f"{folder}: no such folder of clips; name it by -s data.NAME.path=FOLDER")
    files = video.visible_files(folder) if folder.is_dir() else [folder]
    return sha256("".join(sorted(file_hash(p) for p in files)))


def cell_folder(plan: ComparePlan, cell: Cell, out: Path) -> Path:
    """Where a cell lies."""
    return out / "cells" / f"{cell.id}-{cell_hash(plan, cell)[:8]}"
