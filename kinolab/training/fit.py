"""One-shot tuning (Wu et al. 2023, Tune-A-Video): the latents of a clip or a few, and the recipe that trains on them.

What it makes is a run folder like any other: `recipe.yaml` to change and to train again, and beside it the latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from kinolab import video
from kinolab.autoencoders.base import Autoencoder
from kinolab.conditioning import label_index
from kinolab.config import Config, apply_overrides, to_yaml
from kinolab.contracts.events import Listener, events_of
from kinolab.data import FolderConfig, encode_to_cache
from kinolab.data.several import Named, SeveralClips
from kinolab.denoisers.base import DenoiserSpec
from kinolab.denoisers.one_shot import What, tuned_config, tuned_layers, tuned_names, without_numbers
from kinolab.denoisers.trained import QUERIES
from kinolab.errors import InputError
from kinolab.models import ModelConfig, find_model, load_autoencoder, read_model_config
from kinolab.runtime.files import write_text
from kinolab.training.recipe import load_recipe
from kinolab.training.unused import check_unused

LATENTS, RECIPE = "latents", "fit.yaml"
"""Names in the run folder: of the clips' latents, and of the recipe before it is run."""
FRAMES = 24
"""Frames that are tuned on where nothing else is asked for: those of the paper's released models."""
RATE, LORA_RATE = 3e-5, 1e-4
"""Learning rates: of the public code, and of low-rank changes, which begin at zero."""


class FitConfig(Config):
    """What is tuned, on what."""

    clips: tuple[Path, ...] = Field(min_length=1)
    """Video files, or folders of numbered images."""
    prompts: tuple[str, ...] = ()
    """What the clips show: a prompt for each, or one for all."""
    labels: tuple[int | str, ...] = ()
    """Classes of the clips, by number or name, in the same way."""
    model: str
    """The image model (or a video model): a model folder, a run folder, or one that ships."""
    frames: int | None = Field(None, ge=1)
    """Frames of each clip, from its beginning; none = all, at most 24, or those of a video model."""
    interval: int = Field(1, ge=1)
    """Every n-th frame is taken."""
    size: tuple[int, int] | None = None
    """Height and width in pixels; none = the model's."""
    what: What = "queries"
    """What is trained: queries (of all attention, and layers over time), temporal (these layers alone), or all."""
    lora: int | None = Field(None, ge=1)
    """Rank of low-rank changes that are trained in place of those layers; none = the layers themselves."""
    steps: int = Field(500, ge=1)
    """Steps of training."""


@dataclass(frozen=True)
class Prepared:
    """What was written: the recipe's file, what a person should know, and the number of clips, frames and the size."""

    recipe: Path
    notes: tuple[str, ...]
    clips: int
    frames: int
    size: tuple[int, int]


def check_free(folder: Path) -> None:
    """Raises InputError where a folder holds a run already, or anything that no interrupted call of this left."""
    check_unused(folder, (LATENTS, RECIPE))


def prepare(
    config: FitConfig, folder: Path, overrides: Sequence[str] = (), *, device: Any = "cpu", events: Listener = None
) -> Prepared:
    """Encode the clips into `folder / latents` and write the recipe; what was encoded before is not encoded again.

    Args:
        overrides: fields of the recipe, as for `kinolab train`; of the denoiser those that it is inflated with.
        device: where the autoencoder computes.

    Raises:
        InputError: where the clips, the model and what is told don't fit each other; nothing is written then.
    """
    place = find_model(config.model)
    trained = read_model_config(place)
    spec = _check_model(config, trained)
    autoencoder = load_autoencoder(place, device=device)
    window, notes = _window(config, trained, autoencoder)
    source = SeveralClips(_named(config, trained, spec), window, autoencoder.spec)
    latents = autoencoder.spec.latent_shape(source.frames, *source.size)
    recipe = fit_recipe(config, trained, place, folder, latents[1], overrides)
    whole = load_recipe(recipe)  # what is wrong with it is said before anything is encoded
    encode_to_cache(
        source, autoencoder, folder / LATENTS, dtype="float32", device=device, update=True, events=events_of(events)
    )
    write_text(folder / RECIPE, to_yaml(whole))
    return Prepared(folder / RECIPE, (*source.notes(), *notes), len(source), source.frames, source.size)


def _check_model(config: FitConfig, model: ModelConfig) -> DenoiserSpec:
    """What the model is told. Raises InputError for one that can't be tuned, or is told what it doesn't take."""
    if model.denoiser is None:
        raise InputError(f"{config.model}: an autoencoder alone; expected an image model with a denoiser")
    if not model.plain:
        raise InputError(f"{config.model}: has stages, experts, parts or adapters; tune a model of one denoiser")
    if model.image_encoder is not None:
        raise InputError(f"{config.model}: makes videos of a first frame, which tells it what a clip shows")
    return _told(config, model, without_numbers(model.denoiser).spec)


def _told(config: FitConfig, model: ModelConfig, spec: DenoiserSpec) -> DenoiserSpec:
    """The spec, where prompts and labels are those that it takes."""
    clips = len(config.clips)
    for name, given in (("prompts", config.prompts), ("labels", config.labels)):
        if given and len(given) not in (1, clips):
            raise InputError(f"{len(given)} {name} for {clips} clips: expected one for all, or one for each")
    reads = model.text_encoder != "none"
    if config.prompts and not reads:
        raise InputError(f"{config.model}: takes no prompt; leave --prompt out")
    if reads and not config.prompts:
        raise InputError(f"{config.model}: reads prompts: say what the clip shows with --prompt")
    if config.labels and not spec.num_classes:
        raise InputError(f"{config.model}: takes no label; leave --label out")
    return spec


def _named(config: FitConfig, model: ModelConfig, spec: DenoiserSpec) -> list[Named]:
    """The clips with what is told of each."""
    count = len(config.clips)
    labels = [label_index(label, spec, model.class_names) for label in config.labels]
    prompts: list[str | None] = [*config.prompts] * (count if len(config.prompts) == 1 else 1) or [None] * count
    numbers: list[int | None] = [*labels] * (count if len(labels) == 1 else 1) or [None] * count
    return [Named(*told) for told in zip(config.clips, prompts, numbers, strict=True)]


def _window(config: FitConfig, model: ModelConfig, autoencoder: Autoencoder) -> tuple[FolderConfig, list[str]]:
    """The window that is cut of every clip, and what is left out of them.

    Raises:
        InputError: for a clip that is missing, or shorter than what is asked for.
    """
    lengths = {}
    for clip in config.clips:
        found = video.probe(clip)
        frames = found.frames if found.frames is not None else video.probe(clip, exact=True).frames
        lengths[clip] = -(-(frames or 1) // config.interval)
    shortest = min(lengths, key=lambda clip: lengths[clip])
    apart = f", {config.interval} frames apart," if config.interval > 1 else ""
    if config.frames is not None and config.frames > lengths[shortest]:
        raise InputError(f"{shortest}: {lengths[shortest]} frames{apart} and --frames {config.frames} are asked for")
    most = FRAMES if model.frames == 1 else model.frames
    frames = config.frames or autoencoder.spec.snap_frames(min(lengths[shortest], most))
    notes = [
        f"{clip}: its first {frames} of {length} frames{apart} are tuned on; --frames and --interval take others"
        for clip, length in lengths.items()
        if length > frames
    ]
    size = config.size or model.size
    return FolderConfig(path=config.clips[0], frames=frames, size=size, interval=config.interval), notes


def fit_recipe(
    config: FitConfig, model: ModelConfig, place: Path, folder: Path, frames: int, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """The recipe's values.

    Args:
        model: of the image model, in the folder `place`.
        folder: of the run, which holds the latents.
        frames: latent frames of a clip.
        overrides: dotted fields on top.

    Raises:
        InputError: for a model that has nothing of what is to be tuned, or fields that it has not.
    """
    assert model.denoiser is not None
    of_denoiser = [text for text in overrides if text.startswith("denoiser.")]
    fields = apply_overrides({}, [text.removeprefix("denoiser.") for text in of_denoiser])
    denoiser, method = tuned_config(model.denoiser, frames, fields)
    trained = _trained(config, denoiser)
    told = model.model_dump(
        mode="json",
        include={"diffusion", "text_encoder", "null_prompt", "class_names", "conditions"},
    )
    samples = model.model_dump(mode="json", include={"sampler", "guidance", "methods"})
    samples |= {"prompts": list(dict.fromkeys(config.prompts)), "labels": [], "count": 1}
    partly = any(name.endswith(QUERIES) for name in trained.get("trained_names", ()))
    values = {
        "kind": "denoiser",
        "name": folder.name,
        "data": {"kind": "cache", "path": str((folder / LATENTS).absolute()), "heldout_fraction": 0.0},
        "autoencoder": str(place.absolute()),
        "denoiser": denoiser.model_dump(mode="json"),
        "initial": {"path": str(place.absolute()), "method": method},
        **trained,
        **told,
        "missing_captions": "unconditional",
        "missing_labels": "unconditional",
        "condition_dropout": 0.0,
        "heldout_clips": len(config.clips),
        "samples": samples,
        "training": {
            "steps": config.steps, "batch_size": 1, "learning_rate": RATE if config.lora is None else LORA_RATE,
            "weight_decay": 0.0 if partly else 0.01, "ema": 0.0, "save_every": 100, "keep": 1,
            "evaluate_every": config.steps, "evaluate_first": True, "sample_every": config.steps, "tensorboard": False,
        },
    }  # fmt: skip
    return apply_overrides(values, [text for text in overrides if text not in of_denoiser])


def _trained(config: FitConfig, denoiser: Any) -> dict[str, Any]:
    """The fields of a recipe that say what is trained."""
    if config.lora is not None:
        return {
            "trained": "adapter",
            "lora_rank": config.lora,
            "lora_targets": list(tuned_layers(denoiser, config.what)),
        }
    if config.what == "queries":
        return {"trained": "named", "trained_names": list(tuned_names(denoiser, config.what))}
    if config.what == "temporal":
        tuned_names(denoiser, config.what)  # an error where it has none
    return {"trained": config.what}
