"""Whole public models: a pipeline's folder, and a checkpoint with all parts, become a model that samples the same."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from kinolab.autoencoders import ImageAutoencoder, ImageConfig
from kinolab.checkpoints import load, save
from kinolab.checkpoints.pipelines import animated, diffusion_of, read_pipeline
from kinolab.cli import convert, inspect
from kinolab.conditioning.text import ClipTextConfig, build
from kinolab.denoisers import AnimateDiff, MotionConfig, MotionModules, Unet, UnetConfig
from kinolab.diffusion import Diffusion
from kinolab.errors import InputError
from kinolab.models import VideoModel
from tests.checkpoints.whole import SD
from tests.closeness import assert_close, assert_same

app = typer.Typer()
convert.register(app)
inspect.register(app)


def run(*args: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in args])
    if result.exception is not None:
        raise result.exception
    return result.output


def theirs(folder: Path, noise: Tensor, prompt: str, steps: int) -> Tensor:
    """What diffusers makes of noise (1, 4, h, w): pixels (1, 3, H, W) in [-1, 1]."""
    import diffusers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = diffusers.StableDiffusionPipeline.from_pretrained(
            folder, safety_checker=None, requires_safety_checker=False, local_files_only=True
        )
        whole.set_progress_bar_config(disable=True)
        made = whole(prompt, latents=noise, num_inference_steps=steps, guidance_scale=7.5, output_type="pt").images
    return torch.as_tensor(made) * 2 - 1


@pytest.mark.slow
def test_a_pipeline_becomes_a_model_folder_that_samples_the_same(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("convert", pipeline, "--out", tmp_path / "model")
    model = VideoModel.load(tmp_path / "model", device="cpu", precision="float32")
    assert model.config.text_encoder == ClipTextConfig(
        folder=(pipeline / "text_encoder").absolute(), padded=True, max_tokens=12
    )
    assert (model.config.frames, model.config.size, model.config.guidance.scale) == (1, (16, 16), 7.5)
    noise = torch.randn(1, 4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    sample = Diffusion.sample
    monkeypatch.setattr(
        Diffusion, "sample", lambda self, network, _, *args, **kw: sample(self, network, noise, *args, **kw)
    )
    made = model.generate("a cat", sampler={"steps": 10})[:, :, 0]
    assert_close(made, theirs(pipeline, noise[:, :, 0], "a cat", 10), 1e-3)


def test_the_padding_of_a_prompt_is_attended_to(pipeline: Path) -> None:
    config = ClipTextConfig(folder=pipeline / "text_encoder", max_tokens=12)
    plain, padded = (build(config.model_copy(update={"padded": p})) for p in (False, True))
    assert plain is not None and padded is not None
    a, b = plain.encode(["a cat"]), padded.encode(["a cat"])
    own = int(a.mask.sum())
    assert own < 12 and bool(b.mask.all())
    assert_close(b.states[:, :own], a.states[:, :own])
    assert plain.fingerprint != padded.fingerprint


@pytest.mark.slow
def test_a_checkpoint_with_all_parts_becomes_a_model_folder(pipeline: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"block_out_channels": (32, 64), "layers_per_block": 1, "attention_levels": (0,)}
    unet = Unet(UnetConfig(**fields, num_heads=2, text_dim=8, null="prompt"))
    vae = ImageAutoencoder(ImageConfig(block_out_channels=(32, 32), layers_per_block=1, latent_scale=0.18215))
    save(unet, tmp_path / "unet.safetensors", "unet_ldm")
    save(vae, tmp_path / "vae.safetensors", "ldm_autoencoder")
    whole = {f"model.diffusion_model.{k}": v for k, v in load_file(tmp_path / "unet.safetensors").items()}
    whole |= {f"first_stage_model.{k}": v for k, v in load_file(tmp_path / "vae.safetensors").items()}
    save_file(whole | {"cond_stage_model.transformer.x": torch.zeros(2)}, tmp_path / "v1-5.safetensors")
    text = ("--text-encoder", pipeline / "text_encoder")
    run("convert", tmp_path / "v1-5.safetensors", "-o", tmp_path / "m", "-s", "num_heads=2", *text)
    model = VideoModel.load(tmp_path / "m", device="cpu", precision="float32")
    assert (model.config.diffusion.schedule, model.config.sampler.spacing) == ("scaled_linear", "sd")
    assert_same(dict(model.denoiser.state_dict()), dict(unet.state_dict()))
    assert_same(dict(model.autoencoder.state_dict()), dict(vae.state_dict()))
    assert model.generate("a cat", size=(16, 16), sampler={"steps": 2}).shape == (1, 3, 1, 16, 16)


@pytest.mark.slow
def test_motion_modules_go_under_a_pipeline_and_come_off_again(pipeline: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_groups": 4, "num_heads": 2}
    modules = MotionModules(MotionConfig(**fields, attention_levels=(), version="v3", motion_heads=2))
    with torch.no_grad():
        for parameter in modules.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save(modules, tmp_path / "mm.safetensors", "motion_modules")
    run("convert", tmp_path / "mm.safetensors", "--under", pipeline, "-o", tmp_path / "model")
    model = VideoModel.load(tmp_path / "model", device="cpu", precision="float32")
    assert isinstance(model.denoiser, AnimateDiff) and model.config.frames == 16
    assert (model.config.diffusion.schedule, model.config.diffusion.betas) == ("linear", (0.00085, 0.012))
    assert model.config.text_encoder == read_pipeline(pipeline).config.text_encoder
    assert model.generate("a cat", frames=3, sampler={"steps": 2}).shape == (1, 3, 3, 16, 16)
    run("convert", tmp_path / "model", "--part", "motion", "--to", "public", "-o", tmp_path / "again.safetensors")
    assert_same(load_file(tmp_path / "again.safetensors"), load_file(tmp_path / "mm.safetensors"))
    with pytest.raises(InputError, match=r"--under FOLDER"):
        run("convert", tmp_path / "mm.safetensors", "-o", tmp_path / "x")
    with pytest.raises(InputError, match="is for motion modules"):
        run("convert", pipeline / "unet", "--under", pipeline, "-o", tmp_path / "x")
    with pytest.raises(InputError, match="under a U-Net of images, got a AnimateDiff"):
        animated(model, modules, "")


def test_what_a_pipeline_lacks_is_said(pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"kinolab convert .*sd --out FOLDER"):
        VideoModel.load(pipeline)
    (tmp_path / "model_index.json").write_text(json.dumps({"unet": ["diffusers", "X"], "vae": ["diffusers", "Y"]}))
    with pytest.raises(InputError, match="lacks the folder unet"):
        read_pipeline(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"prior": ["diffusers", "X"]}))
    with pytest.raises(InputError, match="a unet or transformer and a vae; it has prior"):
        read_pipeline(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"beta_schedule": "squaredcos_cap_v2"}, "squaredcos_cap_v2"),
        ({"prediction_type": "flow"}, "prediction_type 'flow'"),
    ],
)
def test_a_scheduler_without_a_counterpart_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        diffusion_of(UnetConfig(), {"_class_name": "DDIMScheduler", **SD, **change})


@pytest.mark.slow
def test_a_denoiser_alone_is_given_its_autoencoder_and_its_text_encoder(pipeline: Path, tmp_path: Path) -> None:
    run("convert", pipeline / "vae", "-o", tmp_path / "vae")
    base = ("convert", pipeline / "unet", "--autoencoder", tmp_path / "vae")
    run(*base, "-o", tmp_path / "plain")
    run(*base, "--text-encoder", pipeline / "text_encoder", "-o", tmp_path / "told")
    plain, told = (VideoModel.load(tmp_path / name, device="cpu").config for name in ("plain", "told"))
    assert plain.text_encoder == "none" and told == read_pipeline(pipeline).config.model_copy(
        update={"trained": "converted from unet", "guidance": told.guidance}
    )
    assert isinstance(load(pipeline / "unet"), Unet)
    with pytest.raises(InputError, match="--text-encoder is for denoisers"):
        run("convert", pipeline / "vae", "--text-encoder", pipeline / "text_encoder", "-o", tmp_path / "x")
