"""Part 6: the example on real clips in the latents of a released autoencoder: TAESD's files are carried along.

`taesd-video-folder` inflates it to video and trains that; `taesd-vdt-folder` trains one model of all tasks in the
latents of the image autoencoder, frame by frame, as blur is then none of the autoencoder's. Each has its share of the
time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.clips import Clips
from benchmarks.gpu.fitting import ModelAutoencoderJob, ModelDenoiserJob, fit
from benchmarks.gpu.packing import carried_back, write_clips
from benchmarks.gpu.running import Item, Place, Record
from benchmarks.gpu.toy import in_words
from kinolab import data, video
from kinolab.checkpoints import load
from kinolab.errors import InputError
from kinolab.models import Request, VideoModel, load_autoencoder, save_autoencoder
from kinolab.runtime.modules import save_weights
from kinolab.runtime.precision import autocast
from kinolab.tasks import CachedDraws
from kinolab.training.initial import first_autoencoder, first_denoiser
from kinolab.training.recipe import AutoencoderRecipe, DenoiserRecipe, load_recipe

WEIGHTS = "taesd"
"""The folder of TAESD's two files, of what is carried."""
SHARES = {"video": 0.25, "vdt": 0.9}
"""Of what is left of the part's time when each begins."""
DRAWS = 6
"""Masks per window."""


def _folder(place: Place, name: str) -> Path:
    return place.state / f"{WEIGHTS}-{name}"


def released(place: Place) -> Path:
    """A model folder of the carried weights.

    Raises:
        InputError: where none were carried.
    """
    folder = _folder(place, "image")
    if not (folder / "model.yaml").exists():
        if not (place.carry / WEIGHTS).is_dir():
            raise InputError(f"{place.carry / WEIGHTS}: no weights of TAESD were carried; prepare with --taesd FOLDER")
        save_autoencoder(load(place.carry / WEIGHTS), folder, trained="converted from carried files")
    return folder


def video_recipe(place: Place, size: int) -> AutoencoderRecipe:
    """`taesd-video-folder` at the carried size, in batches for a card."""
    image = load_autoencoder(released(place), device="cpu").config
    changes = [f"data.size={size}", f"initial.path={released(place)}", "training.batch_size=16"]
    fields = ("latent_channels", "global_part", "width", "encoder_blocks", "decoder_widths", "decoder_blocks")
    changes += [f"autoencoder.{name}={_yaml(getattr(image, name))}" for name in fields]
    if place.small:
        changes += ["training.batch_size=2", "heldout_clips=2", "data.frames=5"]
    recipe = load_recipe("taesd-video-folder", changes)
    assert isinstance(recipe, AutoencoderRecipe)
    return recipe


def train_video(place: Place, clips: Clips) -> Record:
    """Train the causal video autoencoder."""

    def job(recipe: AutoencoderRecipe) -> ModelAutoencoderJob:
        return ModelAutoencoderJob(recipe, first_autoencoder(recipe), clips.source("train"), clips.source("heldout"))

    seconds = SHARES["video"] * place.clock.left()
    return fit(video_recipe(place, clips.size), job, _folder(place, "video"), place, seconds)


def make_latents(place: Place, clips: Clips) -> Record:
    """Encode all windows, and masks of every task for each."""
    tasks = vdt_recipe(place, clips).tasks
    assert tasks is not None
    autoencoder = load_autoencoder(released(place)).to(place.device)
    summary = data.encode_to_cache(
        clips.source("all"), autoencoder, _folder(place, "latents"), batch=2 if place.small else 16,
        precision="auto", device=place.device, draws=CachedDraws(tasks, 1 if place.small else DRAWS),
    )  # fmt: skip
    return {"windows": summary.items, "bytes": summary.bytes}


def vdt_recipe(place: Place, clips: Clips) -> DenoiserRecipe:
    """`taesd-vdt-folder` on these latents, in a size for a card."""
    spec = load_autoencoder(released(place), device="cpu").spec
    changes = [
        f"data.path={_folder(place, 'latents')}", f"autoencoder={released(place)}", "data.heldout_fraction=0.1",
        f"denoiser.in_channels={spec.latent_channels}", f"denoiser.input_size={clips.size // spec.spatial_ratio}",
        f"denoiser.num_frames={clips.frames}",
    ]  # fmt: skip
    if place.small:
        changes += ["denoiser.hidden_size=32", "denoiser.depth=2", "training.batch_size=2", "heldout_clips=2",
                    "data.heldout_fraction=0.5"]  # fmt: skip
    else:
        changes += ["denoiser.hidden_size=320", "denoiser.depth=7", "denoiser.num_heads=5", "training.batch_size=32"]
    recipe = load_recipe("taesd-vdt-folder", changes)
    assert isinstance(recipe, DenoiserRecipe)
    return recipe


def train_vdt(place: Place, clips: Clips) -> Record:
    """Train the model of all tasks."""

    def job(recipe: DenoiserRecipe) -> ModelDenoiserJob:
        autoencoder = load_autoencoder(recipe.autoencoder)
        sides = [data.build(recipe.data, autoencoder.spec, split=side) for side in ("train", "heldout")]
        return ModelDenoiserJob(recipe, autoencoder, first_denoiser(recipe), *sides)

    seconds = SHARES["vdt"] * place.clock.left()
    return fit(vdt_recipe(place, clips), job, _folder(place, "vdt"), place, seconds)


@torch.no_grad()
def bring_back(place: Place, clips: Clips) -> Record:
    """A sheet of held-out clips, what both autoencoders make of them, and generated ones; both models."""
    model = VideoModel.load(_folder(place, "vdt") / "model", device=str(place.device))
    causal = load_autoencoder(_folder(place, "video") / "model").to(place.device)
    shown: dict[str, np.ndarray] = {}
    source = clips.source("heldout")
    for k in sorted({len(source) * j // 2 for j in range(2)}):
        example = source[k]
        clip = example.video[None].to(place.device)
        shown[f"{example.source}, held out"] = video.to_uint8(example.video)
        for name, autoencoder in (("frame by frame", model.autoencoder), ("causal, a fourth", causal)):
            with autocast(model.precision, place.device):
                rebuilt = autoencoder.decode(autoencoder.encode(clip).mean)
            shown[f"{example.source}, {name}"] = video.to_uint8(rebuilt[0].float().cpu())
    count = 1 if place.small else 4
    made = model.decode(model.sample_latents([Request(seed=k) for k in range(count)]))
    shown |= {f"generated, seed {k}": frames for k, frames in enumerate(video.to_uint8(made))}
    write_clips(place.out / "released.png", shown)
    save_weights(causal, place.out / "released-video" / "autoencoder.safetensors", torch.float16)
    (place.out / "released-video" / "model.yaml").write_bytes(
        (_folder(place, "video") / "model" / "model.yaml").read_bytes()
    )
    return {"figure": "released.png", **carried_back(model, place.out / "released-model.zip")}


def items(place: Place) -> Iterator[Item]:
    """The video autoencoder, latents, the model of all tasks, and what comes back."""
    released(place)
    clips = Clips(place)
    clips.source("train")
    yield "causal TAESD", lambda: train_video(place, clips)
    yield "latents", lambda: make_latents(place, clips)
    yield "VDT", lambda: train_vdt(place, clips)
    yield "figure and weights", lambda: bring_back(place, clips)


def table(records: dict[str, Record]) -> tuple[list[str], list[list[str]]]:
    """What each item came to, in words."""
    return ["real clips, TAESD", ""], [[name, in_words(record)] for name, record in records.items()]


def _yaml(value: object) -> str:
    """A config's value as `-s` takes it."""
    return str(list(value)) if isinstance(value, tuple) else str(value).lower()
