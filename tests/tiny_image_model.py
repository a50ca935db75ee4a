"""A tiny image model of pixels with random weights, and a part beside it that reads control maps."""

from __future__ import annotations

from typing import Any

import torch

from kinolab.autoencoders import PixelConfig
from kinolab.autoencoders import build as build_autoencoder
from kinolab.denoisers import UnetConfig
from kinolab.denoisers import build as build_denoiser
from kinolab.diffusion import DiffusionConfig, SamplerConfig
from kinolab.models import ModelConfig, VideoModel
from kinolab.models.input_adapter import InputAdapter, InputAdapterConfig

UNET: dict[str, Any] = {
    "in_channels": 3, "input_size": 16, "block_out_channels": (8, 16), "layers_per_block": 1, "attention_levels": (1,),
    "num_heads": 2, "norm_groups": 4,
}  # fmt: skip


def image_model(*, part: bool = True, frames: int = 1, sampler: str = "euler") -> VideoModel:
    """An image U-Net of 16 x 16 pixels, and a part that adds a map's latents to what it sees."""
    torch.manual_seed(0)
    denoiser = build_denoiser(UnetConfig(**UNET))
    own = InputAdapterConfig(channels=3, width=8, depth=1)
    parts = {"control": InputAdapter(own, denoiser)} if part else {}
    config = ModelConfig(
        format=2, autoencoder=PixelConfig(), denoiser=denoiser.config, diffusion=DiffusionConfig(schedule="flow",
        prediction="flow"), parts={"control": own} if part else {}, frames=frames, size=(16, 16), fps=4,
        sampler=SamplerConfig(name=sampler, steps=3),
    )  # fmt: skip
    model = VideoModel(config, build_autoencoder(config.autoencoder), denoiser, parts=parts)
    with torch.no_grad():
        for module in (denoiser, *parts.values()):
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.precision = "float32"
    return model
