"""The cells of a comparison: what each one is, where it lies, and how it is trained.

A cell's folder bears the hash of all that decides its weights, those it starts from included. So a finished cell is
found again, a changed plan makes new cells and touches no old one, and an interrupted one goes on from its last
checkpoint. A cell is one command (`kinolab compare PLAN --cell ID`), so that a cluster can share them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from kinolab import video
from kinolab.autoencoders.base import Autoencoder, AutoencoderSpec
from kinolab.comparison.plan import Budget, ComparePlan, TaskEntry
from kinolab.config import load_config
from kinolab.contracts.events import Listener
from kinolab.data import CacheConfig, FolderConfig, WorldSourceConfig, build, encode_to_cache
from kinolab.errors import InputError
from kinolab.evaluation.protocol import file_hash
from kinolab.generation.provenance import model_hash
from kinolab.models import find_autoencoder, load_autoencoder
from kinolab.runtime.files import make_folder, write_text
from kinolab.runtime.hashes import json_sha256, sha256
from kinolab.runtime.locks import held
from kinolab.runtime.memory import training_memory
from kinolab.runtime.reading import json_lines, parse_json
from kinolab.runtime.records import Record, write_record
from kinolab.tasks import CachedDraws
from kinolab.training.recipe import AutoencoderRecipe, DenoiserRecipe, InitialConfig, load_recipe
from kinolab.training.run import train
from kinolab.training.state import checkpoints


@dataclass(frozen=True)
class Cell:
    """One thing that is trained and measured; without a denoiser, an autoencoder."""

    data: str
    budget: str
    seed: int
    autoencoder: str
    denoiser: str | None = None
    task: str | None = None

    @property
    def kind(self) -> Literal["autoencoder", "denoiser"]:
        """What it trains."""
        return "autoencoder" if self.denoiser is None else "denoiser"

    @property
    def id(self) -> str:
        """Its name on the command line and below `cells/`."""
        parts = [self.data, self.budget, f"seed{self.seed}", self.autoencoder]
        return "/".join([*parts, *(p for p in (self.denoiser, self.task) if p is not None)])


def cells_of(plan: ComparePlan) -> list[Cell]:
    """All cells, each after those that it needs."""
    order: list[str] = []
    for name in plan.autoencoders:
        for needed in reversed(_line(plan, name)):
            if needed not in order:
                order.append(needed)
    cells = []
    for data in plan.data:
        for budget in plan.budgets:
            for seed in plan.seeds:
                cells += [Cell(data, budget, seed, name) for name in order]
                cells += [
                    Cell(data, budget, seed, name, denoiser, task)
                    for name in order
                    for denoiser, entry in plan.denoisers.items()
                    if not entry.autoencoders or name in entry.autoencoders
                    for task in plan.tasks
                ]
    return cells


def find_cell(plan: ComparePlan, id: str) -> Cell:
    """The cell of an id; raises InputError where there is none."""
    for cell in cells_of(plan):
        if cell.id == id:
            return cell
    raise InputError(f"{id}: no such cell; `kinolab compare PLAN --list` lists them")


def needs(plan: ComparePlan, cell: Cell) -> list[Cell]:
    """The cells that have to be trained before."""
    base = Cell(cell.data, cell.budget, cell.seed, cell.autoencoder)
    if cell.kind == "denoiser":
        return [base]
    initial = plan.autoencoders[cell.autoencoder].initial
    return [] if initial is None else [Cell(cell.data, cell.budget, cell.seed, initial.entry)]


def _line(plan: ComparePlan, name: str) -> list[str]:
    """An autoencoder and those it starts from, itself first."""
    line = [name]
    while (initial := plan.autoencoders[line[-1]].initial) is not None:
        line.append(initial.entry)
    return line


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
        entry = denoiser.model_dump(mode="json", exclude={"autoencoders": True, "initial": {"path"}})
        values |= {
            "denoiser": entry | {"denoiser": _as_before(entry["denoiser"], _later_fields(entry["denoiser"]["kind"]))},
            "initial": None if denoiser.initial is None else _weights_hash(cell.denoiser, denoiser.initial.path),
            "task": _task(plan.tasks[cell.task]),
            "budget": _as_before(budget.denoiser.model_dump(), LATER_BUDGET_FIELDS),
            "training": plan.denoiser_training,
            "cached_clips": plan.cached_clips,
        }
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
    "": {"vectors": {}, "fields": {}}, "vdt": {"qk_norm": False}, "latte": {"reach": "own"}, "mmdit": {"reach": "own"},
}  # fmt: skip
"""The same of denoisers: of all, and by kind."""
LATER_BUDGET_FIELDS: dict[str, Any] = {"seconds": None}
"""The same of budgets."""


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
    for name in ("split", "index", "in_memory"):
        values.pop(name, None)
    return json_sha256(_as_before(values, LATER_FIELDS))


def folder_content(folder: Path) -> str:
    """sha256 over the contents of a folder's files, whatever they are called; hidden ones don't count.

    Raises:
        InputError: where there is no such folder.
    """
    if not folder.exists():
        raise InputError(f"{folder}: no such folder of clips; name it by -s data.NAME.path=FOLDER")
    files = video.visible_files(folder) if folder.is_dir() else [folder]
    return sha256("".join(sorted(file_hash(p) for p in files)))


def cell_folder(plan: ComparePlan, cell: Cell, out: Path) -> Path:
    """Where a cell lies."""
    return out / "cells" / f"{cell.id}-{cell_hash(plan, cell)[:8]}"


def model_of(plan: ComparePlan, cell: Cell, out: Path) -> Path:
    """The model folder of a trained cell, or that of an autoencoder which is taken as it is."""
    path = plan.autoencoders[cell.autoencoder].path
    if cell.kind == "autoencoder" and path is not None:
        return Path(path)
    return cell_folder(plan, cell, out) / "run" / "model"


def is_trained(plan: ComparePlan, cell: Cell, out: Path) -> bool:
    """Whether there is nothing left to train."""
    if cell.kind == "autoencoder" and plan.autoencoders[cell.autoencoder].path is not None:
        return True
    return (cell_folder(plan, cell, out) / "training.json").exists()


def encode_cell(plan: ComparePlan, cell: Cell, out: Path, *, device: torch.device | str = "auto") -> None:
    """Encode the clips that a denoiser is trained on, for itself, so that its memory is no part of the training's."""
    [base] = needs(plan, cell)
    if not is_trained(plan, base, out):
        raise InputError(f"{cell.id}: needs {base.id}, which is not trained yet")
    latents_of(plan, cell, out, load_autoencoder(model_of(plan, base, out), device=device))


def train_cell(
    plan: ComparePlan, cell: Cell, out: Path, events: Listener = None, *, device: torch.device | str = "auto"
) -> None:
    """Train a cell to its budget, from its last checkpoint where there is one; record what the training cost."""
    if is_trained(plan, cell, out):
        return
    for other in needs(plan, cell):
        if not is_trained(plan, other, out):
            raise InputError(f"{cell.id}: needs {other.id}, which is not trained yet")
    folder = cell_folder(plan, cell, out)
    recipe = on_device(make_recipe(plan, cell, out, device), device)
    run = folder / "run"
    resumed = bool(checkpoints(run / "checkpoints"))
    path = folder / "recipe.yaml"
    make_folder(folder)
    if resumed and path.is_file():  # steps that a clock decided are those of the first time
        first = load_recipe(path).training
        steps = {"steps": first.steps, "evaluate_every": first.evaluate_every}
        recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update=steps)})
    write_text(path, _yaml(recipe))
    report = train(path, run, resume=resumed, events=events)
    if not report.finished:
        raise InputError(f"{cell.id}: stopped at step {report.step} of {report.steps}; run it again to go on")
    record = training_record(run, recipe) | {"peak_memory": training_memory(report.ranks.device), "resumed": resumed}
    write_record(folder / "training.json", record)


def training_record(run: Path, recipe: AutoencoderRecipe | DenoiserRecipe) -> dict[str, Any]:
    """What a finished run says of itself: steps, clips seen, the median time of a step, the last losses."""
    log = run / "log.jsonl"
    lines = [Record(line, f"{log}, line {number}").values for number, line in json_lines(log, constants=True)]
    seconds = sorted(e["step_seconds"] for e in lines if "step_seconds" in e)
    last = {k: v for e in lines if e["kind"] == "heldout" for k, v in e.items()}
    batch = recipe.training.batch_size
    middle = seconds[len(seconds) // 2] if seconds else float("nan")
    return {
        "steps": recipe.training.steps,
        "samples": recipe.training.steps * batch,
        "step_seconds": middle,
        "clips_per_second": batch / middle,
        "heldout": last,
    }


def on_device(
    recipe: AutoencoderRecipe | DenoiserRecipe, device: torch.device | str
) -> AutoencoderRecipe | DenoiserRecipe:
    """A recipe that runs on a device; `auto` leaves it the one that the plan names. Where it runs is in no hash."""
    if device == "auto":
        return recipe
    training = recipe.training.model_copy(update={"device": str(device)})
    return recipe.model_copy(update={"training": training})


def make_recipe(
    plan: ComparePlan, cell: Cell, out: Path, device: torch.device | str = "auto"
) -> AutoencoderRecipe | DenoiserRecipe:
    """The recipe of a cell: what all of its kind share, with what it differs in.

    device: where clips are encoded, for a denoiser whose cache of latents is not whole.
    """
    if cell.kind == "autoencoder":
        return _autoencoder_recipe(plan, cell, out)
    return _denoiser_recipe(plan, cell, out, device)


def _autoencoder_recipe(plan: ComparePlan, cell: Cell, out: Path) -> AutoencoderRecipe:
    entry = plan.autoencoders[cell.autoencoder]
    assert entry.autoencoder is not None
    shared = {k: v for k, v in plan.autoencoder_training.items() if k != "training"}
    training = dict(plan.autoencoder_training.get("training", {})) | {"seed": cell.seed}
    values: dict[str, Any] = shared | {
        "kind": "autoencoder",
        "name": f"{plan.name}/{cell.id}",
        "data": plan.data[cell.data].model_dump(mode="json"),
        "autoencoder": entry.autoencoder.model_dump(mode="json"),
        "training": training,
    }
    if shared.get("window_frames") is not None and entry.autoencoder.kind == "image":
        # The same number of frames per step, each by itself.
        values |= {"window_frames": None, "frames_per_clip": shared["window_frames"]}
    if entry.initial is not None:
        [other] = needs(plan, cell)
        initial = InitialConfig.model_validate({
            "path": model_of(plan, other, out), "method": entry.initial.method,
        })  # fmt: skip
        values["initial"] = initial.model_dump(mode="json")
    recipe = load_config(AutoencoderRecipe, values, name=cell.id)
    factor = entry.budget.get(cell.budget, 1.0)
    steps = steps_of(plan.budgets[cell.budget].autoencoder, recipe, factor)
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=_whole(steps))})


def _denoiser_recipe(plan: ComparePlan, cell: Cell, out: Path, device: torch.device | str) -> DenoiserRecipe:
    assert cell.denoiser is not None and cell.task is not None
    [base] = needs(plan, cell)
    autoencoder = model_of(plan, base, out)
    network = load_autoencoder(autoencoder, device=device)
    clips, task = plan.data[cell.data], plan.tasks[cell.task]
    shape = clip_shape(clips, network.spec)
    entry = plan.denoisers[cell.denoiser]
    denoiser = entry.denoiser.model_dump(mode="json")
    cache = CacheConfig(path=latents_of(plan, cell, out, network), in_memory=True, heldout_fraction=0.05)
    training = {**plan.denoiser_training.get("training", {}), **entry.recipe.get("training", {}), "seed": cell.seed}
    values = {
        **plan.denoiser_training,
        **entry.recipe,
        "kind": "denoiser",
        "name": f"{plan.name}/{cell.id}",
        "data": cache.model_dump(mode="json"),
        "autoencoder": str(autoencoder),
        "denoiser": denoiser | fitted(denoiser, network.spec, shape),
        "tasks": None if task.train is None else task.train.model_dump(mode="json"),
        "initial": None if entry.initial is None else entry.initial.model_dump(mode="json"),
        "training": training,
    }
    recipe = load_config(DenoiserRecipe, values, name=cell.id)
    steps = steps_of(plan.budgets[cell.budget].denoiser, recipe)
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=_whole(steps))})


def _whole(steps: int) -> dict[str, int]:
    """A budget's steps; samples are made by the measurement, not by the training."""
    return {"steps": steps, "sample_every": 10**9, "evaluate_every": max(1, steps // 4)}


def fitted(denoiser: dict[str, Any], spec: AutoencoderSpec, shape: tuple[int, int, int]) -> dict[str, Any]:
    """The fields of a denoiser that an autoencoder and the clips' shape (frames, height, width) decide."""
    channels, frames, height, width = spec.latent_shape(*shape)
    values: dict[str, Any] = {"in_channels": channels, "input_size": height if height == width else (height, width)}
    values |= {"num_frames": frames} if "num_frames" in denoiser else {}
    return values | ({"mask_channels": spec.temporal_ratio} if "mask_channels" in denoiser else {})


def clip_shape(clips: FolderConfig | WorldSourceConfig, spec: AutoencoderSpec) -> tuple[int, int, int]:
    """Frames, height and width of a source's clips under an autoencoder's rule."""
    if isinstance(clips, WorldSourceConfig):
        return spec.snap_frames(clips.world.frames), clips.world.size, clips.world.size
    size = clips.size if isinstance(clips.size, tuple) else (clips.size, clips.size)
    return spec.snap_frames(clips.frames), *size


def latents_of(plan: ComparePlan, cell: Cell, out: Path, network: Autoencoder) -> Path:
    """The latent cache that a denoiser is trained on; written where it is not there or not whole."""
    assert cell.task is not None
    base = Cell(cell.data, cell.budget, cell.seed, cell.autoencoder)
    folder = cell_folder(plan, base, out)
    task, clips = plan.tasks[cell.task], plan.data[cell.data]
    if isinstance(clips, WorldSourceConfig):
        clips = clips.model_copy(update={"count": plan.cached_clips})
    # Another number of clips, or another task of the same name, makes another cache.
    draw = None if task.train is None else task.train.model_dump(mode="json")
    path = folder / f"latents-{json_sha256([clips_hash(clips.model_dump_json()), draw])[:8]}"
    source = build(clips, network.spec, split="train")
    draws = None if task.train is None else CachedDraws(task.train, 2)
    make_folder(folder)
    with held(folder / f".{path.name}.lock", None):  # two denoisers of one autoencoder may start at once
        encode_to_cache(source, network, path, batch=8, draws=draws)  # type: ignore[arg-type]
    return path


def steps_of(budget: Budget, recipe: AutoencoderRecipe | DenoiserRecipe, factor: float = 1.0) -> int:
    """The optimiser steps that a budget allows a recipe."""
    batch = recipe.training.batch_size
    if budget.steps is not None:
        steps = float(budget.steps)
    elif budget.samples is not None:
        steps = budget.samples / batch
    else:
        from kinolab.planning.cost import flops_per_step, seconds_per_step

        if budget.teraflops is not None:
            steps = budget.teraflops * 1e12 / flops_per_step(recipe)
        else:
            assert budget.seconds is not None
            steps = budget.seconds / seconds_per_step(recipe)
    return max(1, round(factor * steps))


def _yaml(recipe: AutoencoderRecipe | DenoiserRecipe) -> str:
    from kinolab.config import to_yaml

    return to_yaml(recipe)
