"""Whole public models of a few thousand weights: a pipeline of diffusers, and all parts in one file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kinolab.autoencoders import ImageAutoencoder, ImageConfig
from kinolab.checkpoints import save
from kinolab.denoisers import Unet, UnetConfig
from tests.conditioning.text.tiny_text import TOKENS, make_clip
from tests.random_weights import randomized

WIDTH, HEADS, WORDS = 128, 2, 55
"""Of the text encoder inside a checkpoint, whose heads are 64 wide."""
UNET: dict[str, Any] = {
    "block_out_channels": (8, 16), "layers_per_block": 1, "cross_attention_dim": 8, "attention_head_dim": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "norm_num_groups": 4, "sample_size": 8,
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
VAE: dict[str, Any] = {
    "block_out_channels": (8, 8), "down_block_types": ("DownEncoderBlock2D",) * 2, "layers_per_block": 1,
    "up_block_types": ("UpDecoderBlock2D",) * 2, "latent_channels": 4, "norm_num_groups": 4, "sample_size": 16,
    "scaling_factor": 0.18215,
}  # fmt: skip
SD = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
    "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip


def make_pipeline(folder: Path) -> Path:
    """A tiny Stable Diffusion as diffusers saves one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    make_clip(folder / "made" / "text_encoder", projecting=False, tokenizer="tokenizer")
    text = transformers.CLIPTextModel.from_pretrained(folder / "made" / "text_encoder")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "made" / "tokenizer")
    torch.manual_seed(0)
    unet, vae = diffusers.UNet2DConditionModel(**UNET), diffusers.AutoencoderKL(**VAE)
    for part in (unet, vae):
        randomized(part)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = diffusers.StableDiffusionPipeline(
            vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=diffusers.DDIMScheduler(**SD),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        whole.save_pretrained(folder / "sd")
    return folder / "sd"


def make_text() -> Any:
    """CLIP's text encoder as Stable Diffusion 1.x has it, small, by transformers."""
    transformers = pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = transformers.CLIPTextConfig(
            vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=HEADS,
            max_position_embeddings=TOKENS, bos_token_id=WORDS - 2, eos_token_id=WORDS - 1,
        )  # fmt: skip
    torch.manual_seed(0)
    return randomized(transformers.CLIPTextModel(config))


def of_1x(clip: Any) -> dict[str, Tensor]:
    """Its tensors as a checkpoint of 1.x names them."""
    named = {
        f"cond_stage_model.transformer.text_model.{k.removeprefix('text_model.')}": v
        for k, v in clip.state_dict().items()
    }
    return named | {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(TOKENS)[None]}


def make_checkpoint(clip: Any, folder: Path) -> Path:
    """All parts of a Stable Diffusion 1.x in one file."""
    unet = Unet(UnetConfig(
        block_out_channels=(32, 64), layers_per_block=1, attention_levels=(0,), num_heads=2, text_dim=WIDTH,
        null="prompt", input_size=8,
    ))  # fmt: skip
    vae = ImageAutoencoder(ImageConfig(block_out_channels=(32, 32), layers_per_block=1, latent_scale=0.18215))
    whole = of_1x(clip)
    parts = (("model.diffusion_model", unet, "unet_ldm"), ("first_stage_model", vae, "ldm_autoencoder"))
    for prefix, module, layout in parts:
        save(randomized(module), folder / "part.safetensors", layout)
        whole |= {f"{prefix}.{name}": value for name, value in load_file(folder / "part.safetensors").items()}
    (folder / "part.safetensors").unlink()
    save_file({name: value.contiguous() for name, value in whole.items()}, folder / "v1-5.safetensors")
    return folder / "v1-5.safetensors"
