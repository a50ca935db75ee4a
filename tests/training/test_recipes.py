"""Every recipe that ships loads, its parts build, and they fit each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kinolab import video
from kinolab.autoencoders import (
    Autoencoder,
    DpVaeConfig,
    ImageAutoencoder,
    ImageConfig,
    OdVaeConfig,
    Taesd,
    TaesdConfig,
    TemporalDecoderConfig,
)
from kinolab.autoencoders import build as build_autoencoder
from kinolab.autoencoders.inflate import check_match, matching_taesd, with_temporal_decoder
from kinolab.data import FolderConfig, FolderSource
from kinolab.denoisers import Conditions, LatteConfig, Svd
from kinolab.denoisers import build as build_denoiser
from kinolab.denoisers.base import Denoiser
from kinolab.denoisers.inflate import start_from_image
from kinolab.denoisers.svd import init_svd
from kinolab.errors import InputError
from kinolab.models import find_model, read_model_config, shipped_models
from kinolab.training.recipe import AutoencoderRecipe, DenoiserRecipe, load_recipe, shipped_recipes

pytestmark = pytest.mark.slow  # many short ones, which take long together

NAMES = list(shipped_recipes())
RECIPES = {name: load_recipe(name) for name in NAMES}
AUTOENCODERS = [name for name, recipe in RECIPES.items() if isinstance(recipe, AutoencoderRecipe)]
DENOISERS = [name for name, recipe in RECIPES.items() if isinstance(recipe, DenoiserRecipe)]
STABLE_DIFFUSION = ImageConfig(latent_scale=0.18215)
"""What recipes mean whose autoencoder is PATH: one that `kinolab convert` made from public weights."""
TAEF2 = TaesdConfig(latent_channels=32, global_part=True)
"""What they mean by taef2: TAESD for FLUX.2."""


def autoencoder_of(path: Path) -> Autoencoder:
    """The autoencoder, without weights, that a recipe reads from `runs/<another recipe>`, a shipped model or PATH."""
    if str(path) in shipped_models():
        with torch.device("meta"):
            return build_autoencoder(read_model_config(find_model(path)).autoencoder)
    recipe = RECIPES[path.name] if path.parent == Path("runs") else None
    assert recipe is None or isinstance(recipe, AutoencoderRecipe)
    with torch.device("meta"):
        public = TAEF2 if path == Path("taef2") else STABLE_DIFFUSION
        return build_autoencoder(public if recipe is None else recipe.autoencoder)


def clip_shape(recipe: AutoencoderRecipe | DenoiserRecipe) -> tuple[int, int, int] | None:
    """Frames, height and width of a clip, where the recipe reads clips."""
    return recipe.data.clip_shape()


def denoiser_and_latents(recipe: DenoiserRecipe) -> tuple[Denoiser, tuple[int, ...]]:
    """The denoiser without weights, and the shape of the latents that it trains on."""
    with torch.device("meta"):
        denoiser = build_denoiser(recipe.denoiser)
    spec = autoencoder_of(recipe.autoencoder).spec
    if str(recipe.autoencoder) in shipped_models() and clip_shape(recipe) is None:
        shipped = read_model_config(find_model(recipe.autoencoder))
        return denoiser, spec.latent_shape(shipped.frames, *shipped.size)
    clip = clip_shape(recipe)
    if recipe.autoencoder == Path("taef2"):
        clip = 17, 64, 64  # as the command in its comment encodes them
    if clip is None:
        before = RECIPES[recipe.autoencoder.name]
        assert isinstance(before, AutoencoderRecipe)
        clip = clip_shape(before)
    assert clip is not None
    said = re.search(r"data\.world\.frames=(\d+)", shipped_recipes()[recipe.name].read_text(encoding="utf-8"))
    if said is not None:  # what the command in its comment encodes
        clip = int(said[1]), *clip[1:]
    return denoiser, spec.latent_shape(clip[0] if recipe.frames_per_clip is None else 1, *clip[1:])


@pytest.mark.parametrize("name", NAMES)
def test_it_is_named_after_its_file_and_says_what_it_does_and_the_command(name: str) -> None:
    recipe, lines = RECIPES[name], shipped_recipes()[name].read_text(encoding="utf-8").splitlines()
    assert recipe.name == name
    assert lines[0].startswith("# ") and len(lines[0]) > 20
    comment = [line for line in lines if line.startswith("#")]
    assert any(f"kinolab train {name}" in line for line in comment)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_an_autoencoder_takes_the_clips_of_its_recipe(name: str) -> None:
    recipe = RECIPES[name]
    assert isinstance(recipe, AutoencoderRecipe)
    with torch.device("meta"):
        spec = build_autoencoder(recipe.autoencoder).spec
    clip = clip_shape(recipe)
    assert clip is not None
    spec.check(*clip)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_initial_weights_fit_the_autoencoder(name: str) -> None:
    recipe = RECIPES[name]
    assert isinstance(recipe, AutoencoderRecipe)
    if recipe.initial is None:
        return
    source = autoencoder_of(recipe.initial.path)
    if isinstance(recipe.autoencoder, TemporalDecoderConfig):
        assert isinstance(source, ImageAutoencoder)
        with_temporal_decoder(source, recipe.autoencoder)  # says what doesn't fit
    elif recipe.initial.method == "weights":
        assert source.config == recipe.autoencoder
    elif isinstance(recipe.autoencoder, DpVaeConfig):
        assert source.config == recipe.autoencoder.image
    elif isinstance(recipe.autoencoder, TaesdConfig):
        assert isinstance(source, Taesd)
        assert matching_taesd(source.config, {"variant": recipe.autoencoder.variant}) == recipe.autoencoder
    else:
        assert isinstance(source, ImageAutoencoder) and isinstance(recipe.autoencoder, OdVaeConfig)
        check_match(source, recipe.autoencoder)


@pytest.mark.parametrize("name", DENOISERS)
def test_a_denoiser_takes_the_latents_of_its_autoencoder(name: str) -> None:
    recipe = RECIPES[name]
    assert isinstance(recipe, DenoiserRecipe)
    denoiser, latents = denoiser_and_latents(recipe)
    config: Any = recipe.denoiser
    trained_on = (config.in_channels, getattr(config, "num_frames", latents[1]), *config.latent_size)
    assert trained_on == latents
    with torch.device("meta"):
        prediction = denoiser(torch.zeros(2, *latents), torch.zeros(2), Conditions())
    channels = latents[0] * (2 if recipe.diffusion.learned_variance else 1)
    assert prediction.shape == (2, channels, *latents[1:])


@pytest.mark.parametrize("name", DENOISERS)
def test_initial_weights_fit_the_denoiser(name: str) -> None:
    recipe = RECIPES[name]
    assert isinstance(recipe, DenoiserRecipe)
    if recipe.initial is None or recipe.initial.path.parent != Path("runs"):
        return
    before = RECIPES[recipe.initial.path.name]
    assert isinstance(before, DenoiserRecipe)
    if recipe.initial.method == "weights":
        assert before.denoiser == recipe.denoiser
        return
    denoiser, source = build_denoiser(recipe.denoiser), build_denoiser(before.denoiser)
    if recipe.initial.method == "stage":
        assert isinstance(denoiser, Svd) and isinstance(source, Svd)
        report = init_svd(denoiser, source)  # what is dropped reads the prompt, in place of which a picture is told
    else:
        report = start_from_image(denoiser, source, recipe.initial.image)
    assert report.copied and (recipe.initial.method == "stage" or not report.dropped)


@pytest.mark.parametrize("name", DENOISERS)
def test_what_is_given_fits_the_denoiser_and_its_autoencoder(name: str) -> None:
    recipe = RECIPES[name]
    assert isinstance(recipe, DenoiserRecipe)
    spec = denoiser_and_latents(recipe)[0].spec
    assert (recipe.tasks is not None) == (spec.given != "none")
    assert spec.given == "none" or spec.mask_channels == autoencoder_of(recipe.autoencoder).spec.temporal_ratio


@pytest.mark.parametrize("name", DENOISERS)
def test_what_is_sampled_is_what_the_denoiser_takes(name: str) -> None:
    recipe = RECIPES[name]
    assert isinstance(recipe, DenoiserRecipe)
    denoiser, samples = denoiser_and_latents(recipe)[0], recipe.samples
    takes_text = bool(denoiser.spec.text_dim or denoiser.spec.pooled_dim)
    assert takes_text == (recipe.text_encoder != "none")
    assert not samples.prompts or takes_text
    assert all(label < denoiser.spec.num_classes for label in samples.labels)
    assert not recipe.class_names or len(recipe.class_names) == denoiser.spec.num_classes
    conditional = takes_text or denoiser.spec.num_classes > 0
    assert conditional or samples.guidance.scale == 1.0


def test_the_papers_set_ups_are_those_of_the_papers() -> None:
    odvae = RECIPES["odvae-paper"]
    assert isinstance(odvae, AutoencoderRecipe) and isinstance(odvae.data, FolderConfig)
    assert (odvae.data.frames, odvae.data.size, odvae.training.batch_size) == (25, 256, 8)
    assert (odvae.training.learning_rate, odvae.training.decay, odvae.training.ema) == (1e-5, "constant", 0.999)
    assert odvae.loss.perceptual is not None and odvae.loss.adversarial is not None
    for name, classes in (("latte-ucf101", 101), ("latte-skytimelapse", 0)):
        latte = RECIPES[name]
        assert isinstance(latte, DenoiserRecipe) and isinstance(latte.denoiser, LatteConfig)
        assert (latte.denoiser.hidden_size, latte.denoiser.depth, latte.denoiser.num_heads) == (1152, 28, 16)
        assert (latte.denoiser.patch_size, latte.denoiser.num_classes) == (2, classes)
        assert (latte.training.learning_rate, latte.training.ema, latte.diffusion.loss) == (1e-4, 0.9999, "mse_vb")


def test_a_frame_rate_of_every_third_frame_is_met(tmp_path: Path) -> None:
    """25 frames a second at 8.33333 are every third frame, not now and then the second or fourth."""
    levels = np.arange(0, 240, 5, dtype=np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (len(levels), 16, 16, 3))
    video.write(tmp_path / "clip.mkv", frames, 25, lossless=True)
    recipe = RECIPES["latte-ucf101"]
    assert isinstance(recipe, DenoiserRecipe)
    config = recipe.data
    assert isinstance(config, FolderConfig)
    changes = {"path": tmp_path, "size": 16, "split": "all", "index": "none", "labels": "none"}
    source = FolderSource(config.model_copy(update=changes))
    assert len(source) == 1
    shown = (source[0].video[0, :, 0, 0] + 1) * 127.5
    assert torch.diff(shown).round().tolist() == [15.0] * 15


def test_a_name_that_does_not_ship_lists_those_that_do() -> None:
    with pytest.raises(InputError, match=r"nothing: no such recipe.*odvae-folder"):
        load_recipe("nothing")


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("odvae-folder", "data.sise=3", r"unknown key 'data\.sise', did you mean 'size'"),
        ("odvae-folder", "autoencoder.variant=all4d", r" autoencoder\.variant: .*encoder_outer2d"),
        ("odvae-folder", "initial.methd=tail", r"unknown key 'initial\.methd', did you mean 'method'"),
        ("odvae-folder", "data.size=abc", r" data\.size: .*'abc'"),
        ("odvae-paper", "loss.adversarial.discriminator.width=0", r" loss\.adversarial\.discriminator\.width: "),
        ("latte-ucf101", "denoiser.depth=x", r" denoiser\.depth: .*'x'"),
        ("latte-ucf101", "samples.sampler.stepz=3", r"unknown key 'samples\.sampler\.stepz', did you mean 'steps'"),
    ],
)
def test_a_wrong_override_names_the_key_as_it_was_written(name: str, override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe(name, [override])
