"""Rows of a comparison whose method is shown a clip beside the prompt: what makes their clips, and what it costs.

Where a model is tuned on each clip, its training is that of one clip: steps, trained parameters, seconds and memory of
a row are of the tuning that each of its clips takes.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from kinolab import video
from kinolab.comparison.cells import model_of, trained_parameters
from kinolab.comparison.matrix import Cell
from kinolab.comparison.plan import ComparePlan
from kinolab.data import WorldSourceConfig
from kinolab.evaluation.fitting import prepared_on, tuned_on
from kinolab.evaluation.shown import Shown, ShownConfig
from kinolab.generation.matching import matching_world
from kinolab.generation.request import SamplingConfig
from kinolab.models import Request, VideoModel
from kinolab.planning.a_step import flops_per_step
from kinolab.runtime.memory import training_memory
from kinolab.toyworld.clips import WorldClip, make_clip
from kinolab.toyworld.source import WorldSource
from kinolab.training.recipe import DenoiserRecipe, load_recipe
from kinolab.training.run import make_job, train


def shown_of(plan: ComparePlan, cell: Cell, out: Path, model: VideoModel) -> Shown | None:
    """What makes the clips of a cell that is shown some; none for the others."""
    config = _config(plan, cell)
    if config is None:
        return None
    if config.fit is None:
        return Shown(config)
    return Shown(config, tuned_on(str(model_of(plan, cell, out)), config.fit, model.config.fps, loaded=model))


def _config(plan: ComparePlan, cell: Cell) -> ShownConfig | None:
    return None if cell.denoiser is None else plan.denoisers[cell.denoiser].shown


def _clips(model: VideoModel, shown: Shown, count: int) -> tuple[list[WorldClip], list[WorldClip]]:
    """The first held-out clips, and what is asked for of each."""
    config = WorldSourceConfig(world=matching_world(model)[0], heldout_count=count, split="heldout")
    source = WorldSource(config, model.autoencoder.spec)
    clips = [make_clip(source.world, source.seed(k)) for k in range(count)]
    return clips, [shown.asked(source.world, source.seed(k), clip) for k, clip in enumerate(clips)]


def tuning_record(plan: ComparePlan, cell: Cell, out: Path, model: VideoModel) -> dict[str, Any]:
    """The steps and trained parameters of a tuning on one clip."""
    recipe, _ = _tuning(plan, cell, out, model)
    return {"steps": recipe.training.steps, "samples": 1, "trained_parameters": trained_parameters(recipe)}


def _tuning(plan: ComparePlan, cell: Cell, out: Path, model: VideoModel, *, run: bool = False) -> Any:
    """The recipe of a tuning on the first held-out clip, and what `run` of it costs."""
    config = _config(plan, cell)
    assert config is not None and config.fit is not None
    [clip], _ = _clips(model, Shown(ShownConfig(edit=config.edit)), 1)
    pixels = video.to_tensor(clip.frames)
    folder = str(model_of(plan, cell, out))
    with prepared_on(folder, config.fit, clip.fps, pixels, clip.caption, loaded=model) as (path, room):
        recipe = load_recipe(path)
        assert isinstance(recipe, DenoiserRecipe)
        if not run:
            return recipe, make_job(recipe).model()  # type: ignore[attr-defined]
        flops = recipe.training.steps * flops_per_step(recipe)
        began = time.perf_counter()
        with torch.enable_grad():
            train(path, room)
        seconds = time.perf_counter() - began
    return recipe, {
        "training_seconds": seconds,
        "training_flops": flops,
        "step_seconds": seconds / recipe.training.steps,
        "clips_per_second": recipe.training.steps / seconds,
        "training_memory": training_memory(model.device),
    }


def tuning_cost(plan: ComparePlan, cell: Cell, out: Path, model: VideoModel) -> dict[str, Any]:
    """What a tuning on one clip costs: seconds from its first step to the finished model, operations and memory."""
    record: dict[str, Any] = _tuning(plan, cell, out, model, run=True)[1]
    return record


def sampled(plan: ComparePlan, cell: Cell, out: Path, model: VideoModel, count: int, sampling: SamplingConfig) -> Any:
    """A call that makes `count` clips of a cell that is shown some. Its model is tuned on none: what is sampled takes
    as long as of one that is."""
    config = _config(plan, cell)
    assert config is not None
    if config.fit is not None:
        model = _tuning(plan, cell, out, model)[1].to(model.device)
    shown = Shown(config.model_copy(update={"fit": None}))
    clips, asked = _clips(model, shown, count)
    prompted = model.text_encoder is not None
    requests = [
        Request(clip.caption if prompted else None, None, len(clip.frames), model.config.size, k)
        for k, clip in enumerate(asked)
    ]
    return lambda: shown.make(model, clips, asked, requests, sampling)
