"""A causal form of a model is trained: from the teacher's weights, resumed alike, into a folder that says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kinolab import denoisers
from kinolab.autoencoders import ImageAutoencoder, ImageConfig
from kinolab.errors import InputError
from kinolab.models import ModelConfig, VideoModel, load_denoiser
from kinolab.runtime.ranks import Ranks
from kinolab.training.jobs.causal import CausalJob, CausalRecipe
from kinolab.training.jobs.denoiser import DenoiserJob
from kinolab.training.recipe import load_recipe
from kinolab.training.run import make_job, train
from tests.closeness import assert_close, assert_same
from tests.training.tiny import denoiser_recipe

pytestmark = pytest.mark.slow  # several short trainings


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """A recipe that makes a causal form of a random VDT in `base`, on clips of 5 frames."""
    torch.manual_seed(0)
    autoencoder = ImageAutoencoder(
        ImageConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, mid_block_attention=False)
    )
    config = ModelConfig.model_validate(
        {
            "autoencoder": autoencoder.config,
            "denoiser": {
                "kind": "vdt", "hidden_size": 16, "depth": 2, "num_heads": 1, "in_channels": 4, "input_size": 16,
                "num_frames": 5, "patch_size": 4, "num_classes": 6, "temporal_attention": "joint",
            },
            "diffusion": {"schedule": "flow", "prediction": "flow"},
            "sampler": {"name": "euler", "steps": 2},
        }
    )  # fmt: skip
    assert config.denoiser is not None
    denoiser = denoisers.build(config.denoiser)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    VideoModel(config, autoencoder, denoiser).save(tmp_path / "base")
    values = denoiser_recipe(tmp_path / "base", save_every=2)
    kept = {name: values[name] for name in ("name", "data", "heldout_clips", "training")}
    causal = {"block": 2, "first": 1, "window": 1}
    return {"kind": "causal", "teacher": str(tmp_path / "base"), "causal": causal, **kept}


def write(folder: Path, recipe: dict[str, Any]) -> Path:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


@pytest.mark.parametrize("forcing", ["teacher", "diffusion"])
@pytest.mark.wide
def test_a_resumed_run_gives_the_same_and_the_folder_is_causal(
    recipe: dict[str, Any], tmp_path: Path, forcing: str
) -> None:
    path = write(tmp_path, {**recipe, "forcing": forcing, "past_noise": 0.1 if forcing == "teacher" else 0.0})
    train(path, tmp_path / "once")
    train(path, tmp_path / "twice", until=2)
    train(None, tmp_path / "twice", resume=True)
    first, second = (load_denoiser(tmp_path / name, device="cpu").state_dict() for name in ("once", "twice"))
    for name, value in first.items():
        assert_same(second[name], value, name)
    model = VideoModel.load(tmp_path / "once", device="cpu")
    assert model.config.causal is not None
    assert model.config.causal.block == 2
    assert model.config.frames == 17  # the teacher's, by default; the clips of the recipe have 5
    assert len(list(model.stream(frames=9))) == 9


def test_what_is_left_out_comes_from_the_teacher(recipe: dict[str, Any], tmp_path: Path) -> None:
    loaded = load_recipe(recipe)
    assert isinstance(loaded, CausalRecipe)
    assert loaded.denoiser.kind == "vdt"
    assert loaded.diffusion.schedule == "flow"
    job = make_job(loaded)
    assert isinstance(job, CausalJob)
    teacher = load_denoiser(tmp_path / "base", device="cpu").state_dict()
    for name, value in job.denoiser.state_dict().items():
        assert_same(value, teacher[name], name)


def test_one_block_of_the_whole_clip_has_the_loss_of_any_denoiser(recipe: dict[str, Any]) -> None:
    """With one block there is no past: the loss is the plain one at the same draws, whatever is forced."""
    losses = []
    for forcing in ("teacher", "diffusion"):
        job = make_job(load_recipe({**recipe, "causal": {"block": 5}, "forcing": forcing}))
        assert isinstance(job, CausalJob)
        job.parts["denoiser"].wrapped = job.network
        [batch] = next(job.batches(0, Ranks()))
        losses += [job.loss("denoiser", batch, 0)[0], DenoiserJob.loss(job, "denoiser", batch, 0)[0]]
    for loss in losses[1:]:
        assert_close(loss, losses[0])


def test_a_block_learns_from_the_clean_past_alone(recipe: dict[str, Any]) -> None:
    """The clean copy of a block must not reach its own noisy one: there would be nothing to learn."""
    job = make_job(load_recipe(recipe))
    assert isinstance(job, CausalJob)
    z, t = torch.randn(2, 1, 4, 5, 16, 16), torch.full((1, 5), 500.0)
    conditions, early = denoisers.Conditions(label=torch.tensor([1])), torch.ones(1)
    with torch.no_grad():
        before = job._predicted(job.network, z[0], t, conditions, (z[1], early))
        z[1, :, :, 1:3] += 1.0  # the second block of blocks 1, 2, 2
        after = job._predicted(job.network, z[0], t, conditions, (z[1], early))
    assert_same(after[:, :, :3], before[:, :, :3])
    assert not torch.equal(after[:, :, 3:], before[:, :, 3:])


def test_what_can_not_become_causal_is_refused(recipe: dict[str, Any]) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"teacher": "nowhere"}, "no such model"),
        ({"causal": {"block": 0}}, "greater than or equal to 1"),
        ({"causal": {"period": 9}}, "knows 5 places"),
        ({"past_noise": 0.1, "forcing": "diffusion"}, "use forcing: teacher"),
        ({"frames_per_clip": 2}, "leave out parts and single images"),
    ]
    for values, message in wrong:
        with pytest.raises(InputError, match=message):
            load_recipe({**recipe, **values})
    latte = {"kind": "latte", "hidden_size": 16, "depth": 2, "num_heads": 2, "in_channels": 4, "input_size": 16}
    with pytest.raises(InputError, match="no block-causal form"):
        tubelets = {"num_frames": 5, "patch_size": 4, "patch_embedding": "compression", "temporal_patch": 5}
        make_job(load_recipe({**recipe, "denoiser": {**latte, **tubelets}, "initial": None}))
