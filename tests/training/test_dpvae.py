"""DP-VAE through the trainer: resumed exactly, its terms in the log, its image autoencoder as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from kinolab import data
from kinolab.autoencoders import DpVae, ImageAutoencoder
from kinolab.errors import InputError
from kinolab.models import load_autoencoder
from kinolab.training.batches import MicroBatch
from kinolab.training.initial import first_autoencoder
from kinolab.training.jobs.autoencoder import AutoencoderJob
from kinolab.training.recipe import AutoencoderRecipe, load_recipe
from kinolab.training.run import train
from tests.training.test_trainer import largest_difference, run_two
from tests.training.tiny import autoencoder_recipe, dpvae_recipe


@pytest.fixture(scope="module")
def image_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiny image autoencoder."""
    folder = tmp_path_factory.mktemp("image")
    train(write(folder, autoencoder_recipe(steps=2)), folder / "run")
    return folder / "run"


def write(folder: Path, recipe: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def job_of(recipe: dict[str, Any]) -> AutoencoderJob:
    config = load_recipe(recipe)
    assert isinstance(config, AutoencoderRecipe)
    autoencoder = first_autoencoder(config)
    source = data.build(config.data, autoencoder.spec, split="train")
    return AutoencoderJob(config, autoencoder, source, source)


def batch_of(job: AutoencoderJob, count: int) -> MicroBatch:
    return MicroBatch(list(range(count)), [job.source[i] for i in range(count)])


@pytest.mark.wide
def test_a_run_stopped_and_resumed_gives_the_same_weights_and_leaves_the_image_part_alone(
    tmp_path: Path, image_run: Path
) -> None:
    path = write(tmp_path, dpvae_recipe(image_run))
    train(path, tmp_path / "whole")
    train(path, tmp_path / "split", until=2)
    report = train(None, tmp_path / "split", resume=True)
    assert report.finished and largest_difference(tmp_path / "whole", tmp_path / "split") == 0.0
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert all({"moments", "samples", "image_decoder"} <= set(line) for line in steps)

    image, model = load_autoencoder(image_run), load_autoencoder(tmp_path / "whole")
    assert isinstance(image, ImageAutoencoder) and isinstance(model, DpVae) and model.image is not None
    frozen, given = model.image.state_dict(), image.state_dict()
    assert all(torch.equal(frozen[name], given[name]) for name in given)
    start = first_autoencoder(load_recipe(path))  # type: ignore[arg-type]
    moved = {name for name, value in start.state_dict().items() if not torch.equal(value, model.state_dict()[name])}
    assert moved and all(name.startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")) for name in moved)
    picture = torch.rand(1, 3, 1, 32, 32) * 2 - 1
    with torch.no_grad():
        assert torch.equal(model.encode(picture).mean, image.encode(picture).mean)


@pytest.mark.wide
def test_two_processes_train_it_with_images_in_the_batch(tmp_path: Path, image_run: Path) -> None:
    """One process's share of the batch may be images alone, which train the decoder only. The terms compare the
    distributions of a micro-batch, which two processes divide, so they are left out here."""
    recipe = dpvae_recipe(image_run, steps=2)
    recipe["image_fraction"] = 0.5
    recipe["autoencoder"]["regularisation"] = {"moments_weight": 0, "samples_weight": 0, "image_decoder_weight": 0}
    path = write(tmp_path, recipe)
    train(path, tmp_path / "one")
    run_two(path, tmp_path / "two", [])
    assert largest_difference(tmp_path / "one", tmp_path / "two") < 1e-3


@pytest.mark.slow
def test_the_weighted_terms_are_in_the_loss(image_run: Path) -> None:
    with_terms, without = dpvae_recipe(image_run), dpvae_recipe(image_run)
    without["autoencoder"]["regularisation"] = {"moments_weight": 0, "samples_weight": 0, "image_decoder_weight": 0}
    with_terms["autoencoder"]["regularisation"] |= {
        "moments_weight": 0.5,
        "samples_weight": 2,
        "image_decoder_weight": 3,
    }
    with_terms["image_fraction"] = without["image_fraction"] = 0.0
    results = []
    for recipe in (with_terms, without):
        job = job_of(recipe)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            assert isinstance(job.autoencoder, DpVae)
            for parameter in job.autoencoder.encoder.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        job.parts["autoencoder"].wrapped = job.reconstructor
        loss, numbers = job.loss("autoencoder", batch_of(job, 4), 0)
        results.append((float(loss.detach()), numbers))
    (total, numbers), (bare, plain) = results
    assert "moments" not in plain and numbers["moments"] > 0
    added = 0.5 * numbers["moments"] + 2 * numbers["samples"] + 3 * numbers["image_decoder"]
    assert total == pytest.approx(bare + added, rel=1e-5)


def test_clips_with_cuts_are_trained_on_scene_by_scene(image_run: Path) -> None:
    recipe = dpvae_recipe(image_run)
    recipe["autoencoder"]["key_frames"] = {"rule": "scene"}
    recipe["image_fraction"] = 0.0
    job = job_of(recipe)
    batch = batch_of(job, 4)
    for number, example in enumerate(batch.examples[:2]):
        example.video[:, 4:] = -example.video[:, 4:].clamp(-0.2, 0.2).sign() * (0.9 - 0.1 * number)
        example.video[0, :4], example.video[1:, :4] = 0.9, -0.9
    groups = job._groups(batch, 0)
    assert [video.shape[2] for _, video in groups] == [6, 4]
    assert [positions for positions, _ in groups] == [[2, 3], [0, 1]]
    job.parts["autoencoder"].wrapped = job.reconstructor
    loss, numbers = job.loss("autoencoder", batch, 0)
    assert bool(torch.isfinite(loss)) and numbers["samples"] >= 0


def test_a_frozen_part_with_random_weights_is_a_mistake(tmp_path: Path, image_run: Path) -> None:
    recipe = dpvae_recipe(image_run)
    del recipe["initial"]
    with pytest.raises(InputError, match=r"autoencoder\.image is frozen .* initial\.path and initial\.method=tail"):
        train(write(tmp_path, recipe), tmp_path / "run")
    recipe["initial"] = {"path": str(image_run), "method": "tail"}
    recipe["autoencoder"]["image"]["latent_channels"] = 6
    with pytest.raises(InputError, match=r"image\.latent_channels: expected 4, got 6; set the fields as expected"):
        train(write(tmp_path, recipe), tmp_path / "run")
    recipe["initial"]["path"] = str(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"initial\.path: .*nothing: no such model"):
        train(write(tmp_path, recipe), tmp_path / "run")


@pytest.mark.slow
def test_without_image_branch_and_terms_the_latents_are_normalised_as_any_others(
    tmp_path: Path, image_run: Path
) -> None:
    recipe = dpvae_recipe(image_run, steps=1)
    recipe["autoencoder"]["image_branch"] = False
    recipe["autoencoder"]["regularisation"] = {"moments_weight": 0, "samples_weight": 0, "image_decoder_weight": 0}
    train(write(tmp_path, recipe), tmp_path / "run")
    scales = load_file(tmp_path / "run" / "model" / "autoencoder.safetensors")
    assert not any(name.startswith("image.") for name in scales)
    assert not torch.equal(scales["latent_scale"], load_autoencoder(image_run).latent_scale)
