"""What a cell costs in memory and time, measured one cell after the other when nothing else of the comparison runs.

Memory is a property of a process and time one of a quiet machine, so neither is taken from the trainings and
measurements themselves, which may run several at once. On a processor memory is the peak of the whole process.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from kinolab.comparison import stored
from kinolab.comparison.cells import clip_shape, finished_training, make_recipe, model_of, on_device
from kinolab.comparison.hashes import cell_folder
from kinolab.comparison.matrix import Cell, owner_of
from kinolab.comparison.measure import load_cell
from kinolab.comparison.plan import ComparePlan
from kinolab.comparison.showing import sampled, tuning_cost
from kinolab.data import build
from kinolab.evaluation.reconstruction import median_seconds, speed_facts
from kinolab.evaluation.shown import shown_record
from kinolab.generation.request import sampling_of
from kinolab.models import Request, load_autoencoder
from kinolab.planning.a_step import flops_per_step
from kinolab.runtime.devices import device_of, synchronize
from kinolab.runtime.memory import peak_memory, training_memory
from kinolab.runtime.ranks import join_ranks
from kinolab.runtime.records import write_record
from kinolab.training.run import make_job
from kinolab.training.trainer import Trainer

STEPS = 5
"""Timed steps of training, after two that are not."""
OF_TRAINING = ("step_seconds", "clips_per_second", "training_memory", "training_seconds", "training_flops")
"""What a cost says of a training, which all that have its weights share."""
CLIPS = 4
"""Clips that are sampled at once to time sampling."""


def cost_path(plan: ComparePlan, cell: Cell, out: Path) -> Path:
    """Where a cell's costs lie."""
    return cell_folder(plan, cell, out) / "cost.json"


def read_cost(plan: ComparePlan, cell: Cell, out: Path) -> dict[str, Any] | None:
    """A cell's costs; none where they are not measured, or were by another sampler than the plan's."""
    path = cost_path(plan, cell, out)
    if not path.exists():
        return None
    record = stored.read_costs(path)
    if cell.denoiser is None or record.get("sampler") is None:
        return record
    if not stored.same_shown(record, plan.denoisers[cell.denoiser].shown):
        return None
    return record if stored.same_sampling(record, plan.sampling(cell.denoiser)) else None


def costs_first(plan: ComparePlan, cell: Cell) -> bool:
    """Whether a cell is one whose costs are measured: those of the first seed, as a seed changes none."""
    return cell.seed == plan.seeds[0]


def cost_cell(plan: ComparePlan, cell: Cell, out: Path, *, device: torch.device | str = "auto") -> None:
    """Measure what a trained cell costs, where that is not done yet; in a process that does nothing else."""
    if read_cost(plan, cell, out) is not None:
        return
    record: dict[str, Any] = {"threads": torch.get_num_threads()}
    # Training takes the most memory, so what is to be known of the rest has to come before it, and time after it.
    if cell.kind == "autoencoder":
        record |= _autoencoder(plan, cell, out, device) | {"coding_memory": peak_memory()}
        if plan.autoencoders[cell.autoencoder].path is None:
            record |= training_cost(plan, cell, out, device)
    else:
        # Sampling first, for its memory; its time is of the second call, as that of training is.
        record |= _denoiser(plan, cell, out, device)
        record |= _denoiser_training(plan, cell, out, device)
    write_record(cost_path(plan, cell, out), record)


def _denoiser_training(plan: ComparePlan, cell: Cell, out: Path, device: torch.device | str) -> dict[str, Any]:
    """What the training of a denoiser's weights costs; none for weights that are taken as they are."""
    owner = owner_of(plan, cell)
    assert owner.denoiser is not None
    entry, shown = plan.denoisers[owner.denoiser], plan.denoisers[cell.denoiser or ""].shown
    if shown is not None and shown.fit is not None:
        return tuning_cost(plan, cell, out, load_cell(plan, cell, out, device))
    if entry.path is not None:
        return _finished_training(entry.path)
    if entry.untrained:
        return {"training_seconds": 0.0, "training_flops": 0.0}
    known = None if owner == cell else read_cost(plan, owner, out)
    if known is not None:
        return {name: known[name] for name in OF_TRAINING if name in known}
    recipe, record = on_device(make_recipe(plan, cell, out, device), device), training_cost(plan, cell, out, device)
    steps = recipe.training.steps
    whole = {"training_seconds": steps * record["step_seconds"], "training_flops": steps * flops_per_step(recipe)}
    return record | whole


def _finished_training(path: str) -> dict[str, Any]:
    """What the run of a finished model took, by its log: its memory is not in there. Nothing of a model that is no
    run's."""
    found = finished_training(path)
    if found is None:
        return {}
    record, recipe = found
    whole = {"training_seconds": record["steps"] * record["step_seconds"]}
    return whole | {"training_flops": record["steps"] * flops_per_step(recipe)}


def training_cost(plan: ComparePlan, cell: Cell, out: Path, device: torch.device | str = "auto") -> dict[str, Any]:
    """Seconds of a step of training (the median), clips per second, and the most memory of a process that trains."""
    recipe = on_device(make_recipe(plan, cell, out, device), device)
    with join_ranks(recipe.training.device) as ranks, tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(recipe.training.seed)
        job = make_job(recipe)
        trainer = Trainer(job, recipe.training, Path(folder), ranks)
        batches, seconds = job.batches(0, ranks), []
        for step in range(min(STEPS + 2, recipe.training.steps)):
            began = time.perf_counter()
            trainer.train_step(step, next(batches))
            synchronize(ranks.device)
            seconds.append(time.perf_counter() - began)
    middle = statistics.median(seconds[2:] or seconds)
    return {
        "step_seconds": middle,
        "clips_per_second": recipe.training.batch_size / middle,
        "training_memory": training_memory(ranks.device),
    }


def _autoencoder(plan: ComparePlan, cell: Cell, out: Path, device: torch.device | str) -> dict[str, Any]:
    network = load_autoencoder(model_of(plan, cell, out), device=device)
    clips = plan.data[cell.data]
    frames, height, width = clip_shape(clips, network.spec)
    source: Any = build(clips, network.spec, split="train", annotated=False)
    clip = source[0].video[None]
    assert tuple(clip.shape[2:]) == (frames, height, width)
    with torch.no_grad():
        return speed_facts(network, clip.to(device_of(network)), None, "auto", [])


@torch.no_grad()
def _denoiser(plan: ComparePlan, cell: Cell, out: Path, device: torch.device | str) -> dict[str, Any]:
    """Sampling and decoding of some clips; with given frames, as the task has them. Nothing is told, so that nothing is
    guided: guidance calls the denoiser twice."""
    assert cell.task is not None and cell.denoiser is not None
    model, asked = load_cell(plan, cell, out, device), plan.sampling(cell.denoiser)
    requests = [Request(seed=k) for k in range(CLIPS)]
    given = plan.tasks[cell.task].given_frames
    sampling = sampling_of(model.config, asked | {"guidance": {"scale": 1.0}})
    video = torch.zeros(CLIPS, 3, model.config.frames, *model.config.size)
    mask = torch.ones(CLIPS, 1, *video.shape[2:])
    mask[:, :, :given] = 0

    def sample() -> Any:
        if given:
            return model.complete(video, mask, requests, **sampling.arguments)
        return model.decode(model.sample_latents(requests, **sampling.arguments))

    if (shown := plan.denoisers[cell.denoiser].shown) is not None:
        sample = sampled(plan, cell, out, model, CLIPS, sampling)
    seconds = median_seconds(sample, model.device) / CLIPS
    record = {"seconds_per_clip": seconds, "clips_at_once": CLIPS, "sampler": sampling.record()["sampler"]}
    record |= {"sampling_memory": training_memory(model.device)} | shown_record(shown)
    return record | stored.sampling_record(asked)
