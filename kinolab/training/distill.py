"""A model distilled in one call: the clips' latents, and the recipe that is made from the model's folder.

What it makes is a run folder like any other: `recipe.yaml` to change and to train again, and beside it the latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from kinolab import data
from kinolab.config import Config, load_config, merged, read_yaml, to_yaml
from kinolab.contracts.events import Listener, events_of
from kinolab.contracts.examples import ClipSource
from kinolab.errors import InputError
from kinolab.models import ModelConfig, find_model, load_autoencoder, read_model_config, shipped_models
from kinolab.runtime.files import write_text
from kinolab.tables import DISTILLATION, JOBS
from kinolab.tasks import CachedDraws
from kinolab.training.distilled import DistilRecipe, check_teacher
from kinolab.training.recipe import load_recipe
from kinolab.training.unused import check_unused

LATENTS, RECIPE = "latents", "distill.yaml"
"""Names in the run folder: of the clips' latents, and of the recipe before it is run."""
CLIPS = 2048
"""Clips of the toy world that are made where nothing else is asked for."""
DRAWS = 2
"""Masks drawn of each clip, for a model that was trained on tasks."""
FIRST_SEED = 16_000_000
"""Of the toy world's clips, far from those that its shipped models were trained on."""
RATE, LORA_RATE = 2e-4, 1e-3
"""Learning rates: of whole weights, and of low-rank changes, which begin at zero."""
TRAINING: dict[str, Any] = {
    "steps": 2000, "batch_size": 16, "warmup": 10, "decay": "linear", "betas": [0.9, 0.99],
    "save_every": 100, "keep": 1, "evaluate_every": 250, "sample_every": 100_000, "tensorboard": False,
}  # fmt: skip
"""How a student is trained where nothing else is asked for."""
PROMPTS = ("a red ball falls to the floor", "a green ball rolls down a ramp to the left")
"""Sample videos of models of the toy world."""


class DistillConfig(Config):
    """What is distilled, how, and on what."""

    model: str
    """The teacher: a model folder, a run folder, or a model that ships."""
    steps: int = Field(4, ge=1)
    """The steps that the student is for."""
    method: str | None = None
    """One of those that `kinolab distill --help` lists; none = consistency, which loses least in as many steps of
    training (docs/distillation.md), or progressive for a teacher that is distilled itself, which the others refuse."""
    guidance: float | tuple[float, float] | None = None
    """Guidance that is distilled in: a scale, or the least and the most; none = as the teacher is guided by default;
    by consistency distillation, a range around that, but of an adapter, which can't hold what reads a scale."""
    lora: int | None = Field(None, ge=1)
    """Rank of low-rank changes that are trained in place of all weights."""
    data: str | None = None
    """A latent cache, a folder of clips, or `world`; none = what the model was trained on, where it says so."""
    count: int | None = Field(None, ge=1)
    """Clips of the toy world."""


@dataclass(frozen=True)
class Prepared:
    """What was written: the recipe's file, and what will be done in words."""

    recipe: Path
    notes: tuple[str, ...]


def check_free(folder: Path) -> None:
    """Raises InputError where a folder holds a run already, or anything that no interrupted call of this left."""
    check_unused(folder, (LATENTS, RECIPE))


def prepare(
    config: DistillConfig, folder: Path, overrides: Sequence[str] = (), *, device: Any = "cpu", events: Listener = None
) -> Prepared:
    """Encode the clips, where they are none yet, into `folder / latents`, and write the recipe.

    Args:
        overrides: fields of the recipe, as for `kinolab train`.
        device: where the autoencoder computes.

    Raises:
        InputError: where the model, the method and the data don't fit each other; nothing is written then.
    """
    place = find_model(config.model)
    model = read_model_config(place)
    check_teacher(config.model, model)
    config = settled(config, model)
    found, clips = _data(config, place, model)
    values = recipe_values(config, model, folder, found if clips is None else _cached(folder))
    recipe = load_recipe(values, overrides)  # what is wrong with it is said before anything is encoded
    assert isinstance(recipe, DistilRecipe)
    recipe.check(model)
    if clips is not None:
        _encode(clips, model, place, folder, device, events)
    write_text(folder / RECIPE, to_yaml(recipe))
    return Prepared(folder / RECIPE, tuple(_plan(config, recipe, model)))


def settled(config: DistillConfig, model: ModelConfig) -> DistillConfig:
    """The config with the method, and an adapter's guidance, where nothing is said of them."""
    if config.method is None:
        config = config.model_copy(update={"method": "consistency" if model.distilled is None else "progressive"})
    if config.guidance is None and config.lora is not None and config.method == "consistency" and model.guidance.active:
        config = config.model_copy(update={"guidance": model.guidance.scale})
    return config


def recipe_values(config: DistillConfig, model: ModelConfig, folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    """The recipe's values; what they leave out comes from the teacher. config: settled; found: where its clips are.

    Raises:
        InputError: for a method that is not there.
    """
    assert config.method is not None
    kind = JOBS.get(config.method, DISTILLATION).Recipe
    assert issubclass(kind, DistilRecipe)
    shipped = config.model in shipped_models()
    values: dict[str, Any] = {
        "kind": config.method,
        "name": folder.name,
        "teacher": config.model if shipped else str(Path(config.model).absolute()),
        "data": found,
        "training": {**TRAINING, "learning_rate": RATE if config.lora is None else LORA_RATE},
    }
    if config.guidance is not None:
        values["guidance"] = config.guidance
    if config.lora is not None:
        values |= {"trained": "adapter", "lora_rank": config.lora, "lora_targets": ["*"]}
    if shipped and model.text_encoder != "none":
        values["samples"] = {"prompts": list(PROMPTS)}
    return merged(values, kind.asked(config.steps, model))


def _cached(folder: Path) -> dict[str, Any]:
    return {"kind": "cache", "path": str((folder / LATENTS).absolute()), "heldout_fraction": 0.03}


def _data(config: DistillConfig, place: Path, model: ModelConfig) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The data of the recipe, and the source of clips that are to be encoded first; none = it is taken as it is."""
    named = config.data
    if named is None and (place.parent / "recipe.yaml").exists():
        trained = read_yaml(place.parent / "recipe.yaml").get("data")
        path = trained.get("path") if isinstance(trained, dict) else None
        if isinstance(trained, dict) and (path is None or Path(path).exists()):
            source = load_config(data.SOURCES.get(str(trained.get("kind"))).Config, trained, name="data")
            return (trained, None) if data.SOURCES.of(source).encoded else ({}, trained)
        if path is not None:
            raise InputError(f"{path}: the clips that {config.model} was trained on are gone; name others with --data")
    if named is None and config.model not in shipped_models():
        raise InputError(f"{config.model}: doesn't say what it was trained on: name clips or a cache with --data")
    if named in (None, "world"):
        return {}, _world(config, model)
    assert named is not None
    if config.count is not None:
        raise InputError("--count is for the toy world; a folder gives all its windows")
    if (Path(named) / "index.jsonl").exists():
        return {"kind": "cache", "path": str(Path(named).absolute()), "heldout_fraction": 0.03}, None
    if not Path(named).exists():
        raise InputError(f"{named}: no such file or folder; expected a latent cache, a folder of clips, or `world`")
    clips = {"kind": "folder", "path": str(Path(named).absolute()), "frames": model.frames, "size": list(model.size)}
    return {}, {**clips, "fps": model.fps}


def _world(config: DistillConfig, model: ModelConfig) -> dict[str, Any]:
    height, width = model.size
    if height != width:
        raise InputError(f"{config.model}: the toy world is square, and it makes {width} x {height}: name --data")
    world = {"size": height, "frames": model.frames, "fps": model.fps}
    return {"kind": "world", "world": world, "count": config.count or CLIPS, "seed": FIRST_SEED}


def _encode(
    clips: dict[str, Any], model: ModelConfig, place: Path, folder: Path, device: Any, events: Listener
) -> None:
    """The clips' latents, with masks for a model that was trained on tasks."""
    autoencoder = load_autoencoder(place, device=device)
    config = load_config(data.SOURCES.get(clips["kind"]).Config, clips, name="data")
    annotated = model.text_encoder != "none"
    source = data.build(
        config, autoencoder.spec, split="train" if config.kind == "world" else "all", annotated=annotated
    )
    assert isinstance(source, ClipSource)
    drawn = None if model.tasks is None else model.tasks.without_unconditional()
    draws = None if drawn is None else CachedDraws(drawn, DRAWS)
    data.encode_to_cache(
        source, autoencoder, folder / LATENTS, batch=16, dtype="bfloat16", precision="auto", device=device,
        update=True, draws=draws, events=events_of(events),
    )  # fmt: skip


def _plan(config: DistillConfig, recipe: DistilRecipe, model: ModelConfig) -> list[str]:
    """What will be done, in words."""
    own, what = model.sampler, "all weights" if config.lora is None else f"low-rank changes of rank {config.lora}"
    guided = recipe.guidance if recipe.guidance is not None else model.guidance.scale
    scale = f"{guided[0]:g} to {guided[1]:g}, told" if isinstance(guided, tuple) else f"{guided:g}"
    steps = recipe.samples.sampler.steps
    told = [
        f"{config.model}: {own.steps} steps of {own.name} become {steps} of {recipe.sampler} ({config.method}, "
        f"guidance {scale} distilled in); {what} are trained"
    ]
    if steps >= own.steps:
        told.append(f"{steps} steps are no fewer than its teacher takes, {own.steps}: ask for fewer with --steps")
    return told
