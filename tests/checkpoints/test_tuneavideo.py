"""Tune-A-Video's public layout: read, told apart from its image model, and written as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kinolab.autoencoders import ImageAutoencoder, ImageConfig
from kinolab.checkpoints import inspect, load, save
from kinolab.checkpoints.pipelines import read_pipeline
from kinolab.denoisers import Conditions, TuneAVideo, TuneAVideoConfig
from kinolab.errors import InputError
from tests.closeness import assert_same
from tests.tiny_unets import SMALL

GOLDEN = Path(__file__).parents[1] / "golden" / "tuneavideo_unet_linear.safetensors"
PUBLIC: dict[str, Any] = {**SMALL, "num_classes": 0, "null": "prompt", "norm_scope": "clip", "attention_levels": (0, 1)}


def stored() -> dict[str, Tensor]:
    return {k.removeprefix("weights."): v for k, v in load_file(GOLDEN).items() if k.startswith("weights.")}


def public_folder(folder: Path) -> Path:
    """As the public code saves one: the class's arguments beside the weights."""
    told = {k: v for k, v in json.loads(_header(GOLDEN)["config"]).items() if not k.startswith("_")}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_class_name": "UNet3DConditionModel", "sample_size": 8, **told}))
    save_file(stored(), folder / "diffusion_pytorch_model.safetensors")
    return folder


def _header(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        found: dict[str, str] = file.metadata()
    return found


@pytest.mark.slow
def test_a_public_folder_is_told_from_its_image_model_and_written_as_it_was(tmp_path: Path) -> None:
    folder = public_folder(tmp_path / "unet")
    found = inspect(folder)
    assert found.format == "tuneavideo" and found.config["num_heads"] == [2, 3] and "norm_scope" in found.assumed
    model = load(folder)
    assert isinstance(model, TuneAVideo) and model.config.norm_scope == "clip"
    assert model.config.linear_projection and model.config.layers_per_block == 2
    save(model, tmp_path / "again", "tuneavideo")
    files = list((tmp_path / "again").glob("*.safetensors"))
    assert_same(load_file(files[0]), {name: value.float() for name, value in stored().items()})
    told = json.loads((tmp_path / "again" / "config.json").read_text())
    assert told["_class_name"] == "UNet3DConditionModel" and told["attention_head_dim"] == [2, 3]
    assert told["mid_block_type"] == "UNetMidBlock3DCrossAttn" and told["use_linear_projection"]
    back = load(tmp_path / "again")
    z, t = torch.randn(1, 4, 3, 8, 8), torch.tensor([500.0])
    assert back.config == model.config
    with torch.no_grad():
        assert_same(back(z, t, Conditions()), model(z, t, Conditions()))


def test_names_are_the_public_ones(tmp_path: Path) -> None:
    save(TuneAVideo(TuneAVideoConfig(**PUBLIC)), tmp_path, "tuneavideo")
    names = set(load_file(next(tmp_path.glob("*.safetensors"))))
    block = "down_blocks.0.attentions.0.transformer_blocks.0"
    of_time = {name for name in names if name.startswith(block) and "_temp" in name}
    inner = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "to_out.0.bias")
    wanted = {f"{block}.attn_temp.{name}" for name in inner} | {f"{block}.norm_temp.weight", f"{block}.norm_temp.bias"}
    assert of_time == wanted and not any("inside_transformer" in name for name in names)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("norm_scope", "frame", "tune one with -s norm_scope=clip"),
        ("reach", "all", "Tune-A-Video's code has no reach=all"),
        ("num_classes", 3, "num_classes=3"),
    ],
)
def test_what_the_public_code_has_not_is_refused(tmp_path: Path, field: str, value: Any, message: str) -> None:
    model = TuneAVideo(TuneAVideoConfig(**{**PUBLIC, field: value}))
    with pytest.raises(InputError, match=message):
        save(model, tmp_path / "x", "tuneavideo")


@pytest.mark.slow
def test_a_whole_public_pipeline_becomes_a_model(tmp_path: Path) -> None:
    """As the released ones are: unet, vae and scheduler, the first a class of the public code's own."""
    public_folder(tmp_path / "unet")
    pixels = ImageConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4)
    save(ImageAutoencoder(pixels), tmp_path / "vae", "autoencoder_kl")
    scheduler = {"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({**scheduler, "beta_schedule": "scaled_linear", "clip_sample": False})
    )
    parts = {"unet": ["tuneavideo.models.unet", "UNet3DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    index = {"_class_name": "TuneAVideoPipeline", **parts, "scheduler": ["diffusers", "DDIMScheduler"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    model = read_pipeline(tmp_path)
    assert isinstance(model.denoiser, TuneAVideo) and model.config.diffusion.schedule == "scaled_linear"
    assert model.config.sampler.spacing == "sd" and model.config.frames == 24
