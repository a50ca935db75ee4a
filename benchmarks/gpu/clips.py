"""Part 5: the example on real clips, from their frames to generated video: image autoencoder, OD-VAE, latents, Latte.

The three shipped recipes for a person's own folder, on frames that were decoded elsewhere, each for its share of the
part's time. What is asked is whether pictures come out sharp: held-out PSNR, and a sheet to look at.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.fitting import ModelAutoencoderJob, ModelDenoiserJob, fit
from benchmarks.gpu.frames import FramesSource, read_frames
from benchmarks.gpu.packing import carried_back, write_clips
from benchmarks.gpu.running import Item, Place, Record
from benchmarks.gpu.toy import in_words
from kinolab import data, video
from kinolab.contracts.examples import Split
from kinolab.models import Request, VideoModel, load_autoencoder
from kinolab.runtime.precision import autocast
from kinolab.training.initial import first_autoencoder, first_denoiser
from kinolab.training.recipe import AutoencoderRecipe, DenoiserRecipe, load_recipe

FRAMES, SMALL_FRAMES = 17, 5
SHARES = {"image": 0.3, "odvae": 0.5, "latte": 0.85}
"""Of what is left of the part's time when each begins."""


class Clips:
    """The carried frames, as the sources of one run; read once."""

    def __init__(self, place: Place) -> None:
        self.place, self.frames = place, SMALL_FRAMES if place.small else FRAMES
        self._sources: dict[Split, FramesSource] = {}

    @property
    def size(self) -> int:
        """Side of the frames that are trained on, in pixels."""
        return self.source("train").size[0]

    def source(self, split: Split) -> FramesSource:
        """One side of the windows."""
        if not self._sources:
            clips = read_frames(self.place.carry / "frames.npz")
            size = 32 if self.place.small else min(clip.frames.shape[1] for clip in clips)
            clips = clips[:3] if self.place.small else clips
            sides: tuple[Split, ...] = ("train", "heldout", "all")
            self._sources = {side: FramesSource(clips, self.frames, size, split=side) for side in sides}
        return self._sources[split]


def _folder(place: Place, name: str) -> Path:
    return place.state / f"clips-{name}"


def _trained(place: Place, name: str) -> Path:
    """The model folder of a training that is over."""
    model = _folder(place, name) / "model"
    if not model.exists():
        raise RuntimeError(f"the training of {name} has not come to its end")
    return model


def autoencoder_recipe(place: Place, name: str, size: int) -> AutoencoderRecipe:
    """`image-folder` or `odvae-folder` at the carried size, in batches for a card."""
    changes = [f"data.size={size}"]
    if place.small:
        changes += ["training.batch_size=2", "heldout_clips=2"]
        widths = {"image": "autoencoder.block_out_channels=[8,16,24,32]", "odvae": "autoencoder.hidden_size=8"}
        changes += [widths[name], f"data.frames={SMALL_FRAMES}"]
    else:
        changes.append(f"training.batch_size={32 if name == 'image' else 16}")
    if name == "odvae":
        changes.append(f"initial.path={_trained(place, 'image')}")
    recipe = load_recipe(f"{name}-folder", changes)
    assert isinstance(recipe, AutoencoderRecipe)
    return recipe


def train_autoencoder(place: Place, clips: Clips, name: str) -> Record:
    """Train one of the two autoencoders."""

    def job(recipe: AutoencoderRecipe) -> ModelAutoencoderJob:
        return ModelAutoencoderJob(recipe, first_autoencoder(recipe), clips.source("train"), clips.source("heldout"))

    seconds = SHARES[name] * place.clock.left()
    return fit(autoencoder_recipe(place, name, clips.size), job, _folder(place, name), place, seconds)


def make_latents(place: Place, clips: Clips) -> Record:
    """Encode all windows by the trained OD-VAE."""
    autoencoder = load_autoencoder(_trained(place, "odvae")).to(place.device)
    summary = data.encode_to_cache(
        clips.source("all"), autoencoder, _folder(place, "latents"), batch=2 if place.small else 16,
        precision="auto", device=place.device,
    )  # fmt: skip
    return {"windows": summary.items, "bytes": summary.bytes}


def denoiser_recipe(place: Place, size: int) -> DenoiserRecipe:
    """`latte-folder` on these latents."""
    latent_frames = 1 + ((SMALL_FRAMES if place.small else FRAMES) - 1) // 4
    changes = [
        f"data.path={_folder(place, 'latents')}", f"autoencoder={_trained(place, 'odvae')}",
        f"denoiser.input_size={size // 8}", f"denoiser.num_frames={latent_frames}", "data.heldout_fraction=0.1",
    ]  # fmt: skip
    if size > 64:
        changes.append("denoiser.patch_size=2")  # as many tokens as at 64 pixels
    if place.small:
        changes += ["denoiser.hidden_size=32", "denoiser.depth=2", "training.batch_size=2", "heldout_clips=2",
                    "data.heldout_fraction=0.5"]  # fmt: skip
    else:
        changes.append("training.batch_size=64")
    recipe = load_recipe("latte-folder", changes)
    assert isinstance(recipe, DenoiserRecipe)
    return recipe


def train_denoiser(place: Place, clips: Clips) -> Record:
    """Train Latte on the latents."""

    def job(recipe: DenoiserRecipe) -> ModelDenoiserJob:
        autoencoder = load_autoencoder(recipe.autoencoder)
        sides = [data.build(recipe.data, autoencoder.spec, split=side) for side in ("train", "heldout")]
        return ModelDenoiserJob(recipe, autoencoder, first_denoiser(recipe), *sides)

    seconds = SHARES["latte"] * place.clock.left()
    return fit(denoiser_recipe(place, clips.size), job, _folder(place, "latte"), place, seconds)


@torch.no_grad()
def bring_back(place: Place, clips: Clips) -> Record:
    """A sheet of held-out clips with their reconstructions, and of generated ones; the model as one file."""
    model = VideoModel.load(_trained(place, "latte"), device=str(place.device))
    shown: dict[str, np.ndarray] = {}
    source = clips.source("heldout")
    for k in sorted({len(source) * j // 3 for j in range(3)}):
        example = source[k]
        with autocast(model.precision, place.device):
            mean = model.autoencoder.encode(example.video[None].to(place.device)).mean
        shown[f"{example.source}, held out"] = video.to_uint8(example.video)
        shown[f"{example.source}, reconstructed"] = video.to_uint8(model.decode(mean)[0])
    count = 1 if place.small else 4
    made = model.decode(model.sample_latents([Request(seed=k) for k in range(count)]))
    shown |= {f"generated, seed {k}": frames for k, frames in enumerate(video.to_uint8(made))}
    write_clips(place.out / "clips.png", shown)
    return {"figure": "clips.png", **carried_back(model, place.out / "clips-model.zip")}


def items(place: Place) -> Iterator[Item]:
    """Both autoencoders, latents, Latte, and what comes back."""
    clips = Clips(place)
    clips.source("train")
    yield "image autoencoder", lambda: train_autoencoder(place, clips, "image")
    yield "OD-VAE", lambda: train_autoencoder(place, clips, "odvae")
    yield "latents", lambda: make_latents(place, clips)
    yield "Latte", lambda: train_denoiser(place, clips)
    yield "figure and weights", lambda: bring_back(place, clips)


def table(records: dict[str, Record]) -> tuple[list[str], list[list[str]]]:
    """What each item came to, in words."""
    rows: list[list[Any]] = [[name, in_words(record)] for name, record in records.items()]
    return ["real clips", ""], rows
