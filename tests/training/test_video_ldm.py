"""Layers over time are trained on a frozen image model: nothing else moves or is stored, and tasks reach them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from kinolab import denoisers
from kinolab.autoencoders import ImageAutoencoder, ImageConfig
from kinolab.errors import InputError
from kinolab.models import ModelConfig, VideoModel, load_autoencoder, load_denoiser, save_autoencoder
from kinolab.tasks import predict_mask
from kinolab.training.jobs.denoiser import DenoiserJob
from kinolab.training.recipe import load_recipe
from kinolab.training.run import train
from tests.closeness import assert_same, differs
from tests.listening import Listening
from tests.training.tiny import tasks_recipe

pytestmark = pytest.mark.slow  # many short trainings, which take long together

UNET: dict[str, Any] = {
    "block_out_channels": [8, 16], "layers_per_block": 1, "attention_levels": [0], "num_heads": 2, "norm_groups": 4,
    "in_channels": 4, "input_size": 16,
}  # fmt: skip


@dataclass
class World:
    """A random image U-Net in `folder / image`, a recipe that trains a Video LDM on it, and such a run in `once`."""

    folder: Path
    recipe: dict[str, Any]
    notes: list[str]

    @property
    def once(self) -> dict[str, Tensor]:
        return weights(self.folder / "once")

    @property
    def image(self) -> dict[str, Tensor]:
        return load_file(self.folder / "image" / "denoiser.safetensors")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("video_ldm")
    torch.manual_seed(0)
    pixels = ImageConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, mid_block_attention=False)
    save_autoencoder(ImageAutoencoder(pixels), folder / "pixels")
    image = denoisers.UnetConfig(**UNET)
    autoencoder, model = load_autoencoder(folder / "pixels"), denoisers.build(image)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    VideoModel(ModelConfig(autoencoder=autoencoder.config, denoiser=image), autoencoder, model).save(folder / "image")
    recipe = tasks_recipe(folder / "pixels", batch_size=2, steps=3)
    recipe["denoiser"] = UNET | {"kind": "video_ldm", "num_frames": 5, "given": "context", "context_width": 8}
    recipe |= {"initial": {"path": str(folder / "image"), "method": "image"}, "trained": "temporal"}
    recipe["tasks"] = {"unconditional": 1, "predict": 2, "interpolate": 2, "predict_frames": [1, 2]}
    heard = Listening()
    train(write(folder, recipe), folder / "once", events=heard)
    return World(folder, recipe, heard.notes)


def write(folder: Path, recipe: dict[str, Any]) -> Path:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "model" / "denoiser.safetensors")


def test_time_alone_is_trained(world: World) -> None:
    once, image, video = world.once, world.image, load_denoiser(world.folder / "once" / "model")
    fresh = {name for name in once if name not in image}
    assert fresh == {name for name, _ in video.named_parameters() if video.models_time(name)}
    for name, value in image.items():
        assert_same(once[name], value)
    assert once["mid_block.after_resnet.0.conv.conv2.weight"].any()
    before = denoisers.build(denoisers.VideoLdmConfig.model_validate(world.recipe["denoiser"])).state_dict()
    assert differs(
        once["mid_block.after_resnet.0.mixer.mix_factor"], before["mid_block.after_resnet.0.mixer.mix_factor"]
    )
    sizes = sum(once[name].numel() for name in fresh), sum(value.numel() for value in once.values())
    assert f"temporal: {sizes[0]:,} of {sizes[1]:,} parameters are trained ({sizes[0]:,} for time alone)" in world.notes
    assert any(note.startswith("frozen: ") and "resnets.N.conv1.weight" in note for note in world.notes)


@pytest.mark.wide
def test_a_resumed_run_gives_the_same(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose checkpoints held all weights, as they did once."""
    path, make = write(tmp_path, world.recipe), DenoiserJob.__init__

    def whole(job: DenoiserJob, *args: Any) -> None:
        make(job, *args)
        job.parts["denoiser"].frozen_elsewhere = False

    train(path, tmp_path / "new", until=2)
    with monkeypatch.context() as before:
        before.setattr(DenoiserJob, "__init__", whole)
        train(path, tmp_path / "old", until=2)
    for name in ("new", "old"):
        train(path, tmp_path / name, resume=True)
        found = weights(tmp_path / name)
        assert set(found) == set(world.once)
        for key, value in world.once.items():
            assert_same(found[key], value, key)


def test_checkpoints_hold_what_is_trained_and_know_the_image_model(world: World, tmp_path: Path) -> None:
    [checkpoint] = (world.folder / "once" / "checkpoints").iterdir()
    trained = [value.numel() for name, value in world.once.items() if name not in world.image]
    stored = [tensor for p in checkpoint.rglob("*.safetensors") for tensor in load_file(p).values()]
    # weights, averages, two moments of the optimiser, and its count of steps for each tensor
    assert sum(tensor.numel() for tensor in stored) == 4 * sum(trained) + len(trained)
    other = VideoModel.load(world.folder / "image", device="cpu")
    with torch.no_grad():
        other.denoiser.get_parameter("conv_out.weight").add_(0.1)
    other.save(tmp_path / "other")
    with pytest.raises(InputError, match="frozen weights of its denoiser were others"):
        train(None, world.folder / "once", [f"initial.path={tmp_path / 'other'}"], resume=True)


def test_a_run_that_trained_the_image_model_too_cannot_forget_that(world: World, tmp_path: Path) -> None:
    path = write(tmp_path, world.recipe)
    train(path, tmp_path / "run", ["trained=all"], until=1)
    with pytest.raises(InputError, match="frozen weights of its denoiser were others"):
        train(path, tmp_path / "run", resume=True)


def test_parameters_are_trained_by_name(world: World, tmp_path: Path) -> None:
    names = ["*.after_attention.*", "down_blocks.0.attentions.*attn1.to_q.weight"]
    some = world.recipe | {"trained": "named", "trained_names": names}
    heard = Listening()
    train(write(tmp_path, some), tmp_path / "run", events=heard)
    after, image = weights(tmp_path / "run"), world.image
    moved = {name for name, value in image.items() if differs(after[name], value).any()}
    assert moved == {"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"}
    assert not after["mid_block.after_resnet.0.conv.conv2.weight"].any()
    assert after["down_blocks.0.after_attention.0.ff.net.2.weight"].any()
    assert any(note.startswith("named: ") for note in heard.notes)
    wrong: list[dict[str, Any]] = [{"trained_names": []}, {"trained": "temporal"}]
    for changes in wrong:
        with pytest.raises(InputError, match="trained: named and trained_names go together"):
            load_recipe(some | changes)
    with pytest.raises(InputError, match=r"trained_names: \*\.attn_temp\.\* is no parameter of the denoiser"):
        train(write(tmp_path, some | {"trained_names": ["*.attn_temp.*"]}), tmp_path / "other")


def test_what_is_given_reaches_a_trained_model_by_its_context(world: World) -> None:
    model = VideoModel.load(world.folder / "once" / "model", precision="float32")
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.denoiser.named_parameters():
            if model.denoiser.models_time(name):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=source))
    clip = torch.rand(1, 3, 5, 32, 32, generator=source) * 2 - 1
    mask = predict_mask(5, 32, 32, 2)[None, None]
    made = model.complete(clip, mask)
    other = clip.clone()
    other[:, :, 2:] = 0  # what is under the mask has no influence
    assert_same(model.complete(other, mask), made)
    other[:, :, :1] *= -1
    assert differs(model.complete(other, mask), made).any()
    guided = model.complete(clip, mask, guidance={"scales": {"given": 3.0}})
    assert differs(guided, made).any()
