"""A clip of the toy world in 50 steps, from the prompt to pixels, with the model that ships."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.measure import Aim, Entrant, Result, compared, race
from kinolab.autoencoders import build as build_autoencoder
from kinolab.denoisers import build as build_denoiser
from kinolab.diffusion import SamplerConfig
from kinolab.models import ModelConfig, VideoModel, shipped_models
from kinolab.runtime.precision import PrecisionPolicy
from kinolab.training.recipe import AutoencoderRecipe, DenoiserRecipe, load_recipe

FLOAT32, AUTO = "Kinolab, float32", "Kinolab, auto"
PROMPT = "a red ball falls to the floor"


def toy_model() -> tuple[VideoModel, str]:
    """The shipped model of the toy world, or one of the same size with random weights; and which of them it is."""
    if "world" in shipped_models():
        return VideoModel.load("world", device="cpu"), "the shipped model"
    denoiser, autoencoder = load_recipe("toy-latte"), load_recipe("toy-odvae-finetune")
    assert isinstance(denoiser, DenoiserRecipe) and isinstance(autoencoder, AutoencoderRecipe)
    config = ModelConfig(
        autoencoder=autoencoder.autoencoder,
        denoiser=denoiser.denoiser,
        diffusion=denoiser.diffusion,
        text_encoder=denoiser.text_encoder,
        class_names=denoiser.class_names,
        sampler=denoiser.samples.sampler,
        guidance=denoiser.samples.guidance,
    )
    torch.manual_seed(0)
    parts = build_autoencoder(config.autoencoder), build_denoiser(config.denoiser)  # type: ignore[arg-type]
    return VideoModel(config, *parts), "a model of the recipes' sizes with random weights"


def clip(
    repeats: int, say: Callable[[str], None], steps: int = 50, model: tuple[VideoModel, str] | None = None
) -> Result:
    """Seconds from a prompt to the pixels of a clip."""
    chosen, which = toy_model() if model is None else model
    name = chosen.config.sampler.name

    def generate(policy: PrecisionPolicy, steps: int = steps) -> Tensor:
        chosen.precision = policy
        return chosen.generate(PROMPT, sampler=SamplerConfig(name=name, steps=steps))

    entrants = [
        Entrant(FLOAT32, lambda: generate("float32"), lambda: generate("float32", 1)),
        Entrant(AUTO, lambda: generate("auto"), lambda: generate("auto", 1)),
    ]
    timings = race(entrants, repeats, say)
    config = chosen.config
    setup = (
        f"{which}: {config.frames} frames of {config.size[0]} x {config.size[1]}, {steps} steps of {name}, "
        f"guidance {config.guidance.scale:g}"
    )
    seconds = timings[-1].median
    aim = Aim(f"{AUTO}: a clip in less than 10 s", seconds, seconds < 10)
    return compared("toy_clip", "A clip of the toy world", setup, timings, [aim])
