"""How the cells of a comparison are trained: the recipe of each, and what its training leaves in its folder.

A cell's folder bears the hash of all that decides its weights (`hashes`), those it starts from included. So a finished
cell is found again, a changed plan makes new cells and touches no old one, and an interrupted one goes on from its last
checkpoint. A cell is one command (`kinolab compare PLAN --cell ID`), so that a cluster can share them out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kinolab.autoencoders.base import Autoencoder, AutoencoderSpec
from kinolab.comparison.hashes import cell_folder, clips_hash
from kinolab.comparison.matrix import Cell, base_of, needs, owner_of
from kinolab.comparison.plan import Budget, ComparePlan
from kinolab.config import load_config
from kinolab.contracts.events import Listener
from kinolab.data import CacheConfig, FolderConfig, WorldSourceConfig, build, encode_to_cache
from kinolab.denoisers import build as build_denoiser
from kinolab.denoisers.trained import LowRank, trainable_parameters
from kinolab.errors import InputError
from kinolab.models import build_part, find_model, load_autoencoder
from kinolab.runtime.files import make_folder, write_text
from kinolab.runtime.hashes import json_sha256
from kinolab.runtime.locks import held
from kinolab.runtime.memory import training_memory
from kinolab.runtime.ranks import Ranks
from kinolab.runtime.reading import json_lines
from kinolab.runtime.records import Record, write_record
from kinolab.tasks import CachedDraws
from kinolab.training.jobs.denoiser import DenoiserJob
from kinolab.training.recipe import AutoencoderRecipe, DenoiserRecipe, InitialConfig, load_recipe
from kinolab.training.run import make_job, train
from kinolab.training.state import checkpoints


def model_of(plan: ComparePlan, cell: Cell, out: Path) -> Path:
    """The model folder of a trained cell, or that of a model which is taken as it is."""
    finished = _finished(plan, cell)
    if finished is not None:
        return find_model(finished) if cell.kind == "denoiser" else Path(finished)
    return cell_folder(plan, owner_of(plan, cell), out) / "run" / "model"


def is_trained(plan: ComparePlan, cell: Cell, out: Path) -> bool:
    """Whether there is nothing left to train."""
    return _finished(plan, cell) is not None or training_path(plan, cell, out).exists()


def _finished(plan: ComparePlan, cell: Cell) -> str | None:
    """The place of a model that is taken as it is; none for one that the plan makes."""
    cell = owner_of(plan, cell)
    return plan.autoencoders[cell.autoencoder].path if cell.denoiser is None else plan.denoisers[cell.denoiser].path


def training_path(plan: ComparePlan, cell: Cell, out: Path) -> Path:
    """What the training of a cell's weights said and cost."""
    return cell_folder(plan, owner_of(plan, cell), out) / "training.json"


def encode_cell(plan: ComparePlan, cell: Cell, out: Path, *, device: torch.device | str = "auto") -> None:
    """Encode the clips that a denoiser is trained on, for itself, so that its memory is no part of the training's."""
    base = base_of(cell)
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
    if cell.denoiser is not None and plan.denoisers[cell.denoiser].untrained:
        take_as_it_is(recipe, folder, events)
        return
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


def take_as_it_is(recipe: AutoencoderRecipe | DenoiserRecipe, folder: Path, events: Listener) -> None:
    """Write the model that a recipe's training would begin with, and its held-out loss (on the CPU); nothing is
    trained."""
    assert isinstance(recipe, DenoiserRecipe) and recipe.initial is not None
    make_folder(folder)
    write_text(folder / "recipe.yaml", _yaml(recipe))
    torch.manual_seed(recipe.training.seed)
    job = make_job(recipe, events)
    assert isinstance(job, DenoiserJob)
    job.network.eval()
    with torch.no_grad():
        heldout = job.evaluate(Ranks())
    model = job.model()
    model.config = model.config.model_copy(update={"trained": f"{recipe.initial.path}, as it is"})
    model.save(folder / "run" / "model")
    record = {"steps": 0, "samples": 0, "trained_parameters": 0, "heldout": {"step": 0, **heldout}}
    write_record(folder / "training.json", record)


def trained_parameters(recipe: AutoencoderRecipe | DenoiserRecipe) -> int | None:
    """How many parameters a denoiser's recipe trains; none of an autoencoder's is told."""
    if not isinstance(recipe, DenoiserRecipe):
        return None
    low_rank = LowRank(recipe.lora_rank, recipe.lora_alpha, recipe.lora_targets)
    denoiser = build_denoiser(recipe.denoiser)
    beside = (build_part(config, denoiser) for config in recipe.parts.values())
    own = trainable_parameters(denoiser, recipe.trained, low_rank, recipe.trained_names).trained
    return own + sum(p.numel() for part in beside for p in part.parameters())


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
        "trained_parameters": trained_parameters(recipe),
        "heldout": last,
    }


def finished_training(path: str) -> tuple[dict[str, Any], DenoiserRecipe] | None:
    """What the run of a finished model says of its training, and its recipe; none where the model is no run's.

    Its held-out loss is left out: it is of the run's own clips.
    """
    run = Path(path)
    if not (run / "recipe.yaml").is_file() or not (run / "log.jsonl").is_file():
        return None
    recipe = load_recipe(run / "recipe.yaml")
    assert isinstance(recipe, DenoiserRecipe)
    return training_record(run, recipe) | {"heldout": {}}, recipe


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
    cell = owner_of(plan, cell)
    assert cell.denoiser is not None and cell.task is not None
    base = base_of(cell)
    autoencoder = model_of(plan, base, out)
    network = load_autoencoder(autoencoder, device=device)
    clips, task = plan.data[cell.data], plan.tasks[cell.task]
    shape = clip_shape(clips, network.spec)
    entry = plan.denoisers[cell.denoiser]
    assert entry.denoiser is not None
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
    if entry.untrained:
        return recipe
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
    folder = cell_folder(plan, base_of(cell), out)
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
        from kinolab.planning.a_step import flops_per_step, seconds_per_step

        if budget.teraflops is not None:
            steps = budget.teraflops * 1e12 / flops_per_step(recipe)
        else:
            assert budget.seconds is not None
            steps = budget.seconds / seconds_per_step(recipe)
    return max(1, round(factor * steps))


def _yaml(recipe: AutoencoderRecipe | DenoiserRecipe) -> str:
    from kinolab.config import to_yaml

    return to_yaml(recipe)
