"""Tiny image models with random weights, of the three architectures that methods over frames have to run on.

Pixels of 16 x 16 are their latents, clips of any length are their frames side by side, and they know 5 classes.
"""

from __future__ import annotations

from typing import Any

import torch

from kinolab.autoencoders import PixelConfig
from kinolab.autoencoders import build as build_autoencoder
from kinolab.denoisers import DiTConfig, MmditConfig, UnetConfig
from kinolab.denoisers import build as build_denoiser
from kinolab.diffusion import DiffusionConfig, SamplerConfig
from kinolab.methods import GuidanceConfig
from kinolab.models import ModelConfig, VideoModel
from kinolab.models.input_adapter import InputAdapter, InputAdapterConfig

SHARED: dict[str, Any] = {"in_channels": 3, "input_size": 16, "num_classes": 5}
DENOISERS: dict[str, Any] = {
    "unet": UnetConfig(
        **SHARED, block_out_channels=(8, 16), layers_per_block=1, attention_levels=(1,), num_heads=2, norm_groups=4,
        text_dim=0,
    ),
    "dit": DiTConfig(**SHARED, hidden_size=16, depth=2, num_heads=2, patch_size=4),
    "mmdit": MmditConfig(
        **SHARED, hidden_size=16, depth=2, num_heads=2, patch_size=4, num_frames=1, attention="2d",
        temporal_position="none",
    ),
}  # fmt: skip
DIFFUSIONS: dict[str, DiffusionConfig] = {
    "unet": DiffusionConfig(schedule="scaled_linear", prediction="v"),
    "dit": DiffusionConfig(schedule="linear", prediction="v"),
    "mmdit": DiffusionConfig(schedule="flow", prediction="flow"),
}
"""One of each kind of path, as these architectures are mostly trained."""


def tiny_images(kind: str) -> VideoModel:
    """An image model whose last layer is perturbed, so that classes and neighbours matter."""
    denoiser = DENOISERS[kind]
    config = ModelConfig(
        autoencoder=PixelConfig(), denoiser=denoiser, diffusion=DIFFUSIONS[kind], frames=1, size=(16, 16),
        class_names=("a", "b", "c", "d", "e"), sampler=SamplerConfig(name="euler", steps=4),
        guidance=GuidanceConfig(scale=2.0),
    )  # fmt: skip
    torch.manual_seed(0)
    model = VideoModel(config, build_autoencoder(config.autoencoder), build_denoiser(denoiser))
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.precision = "float32"
    return model


def with_adapter(model: VideoModel) -> VideoModel:
    """An image model and beside it a part that adds a map's latents to what it sees."""
    config = InputAdapterConfig(channels=3, width=8, depth=1)
    torch.manual_seed(1)
    part = InputAdapter(config, model.denoiser)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    whole = model.config.model_copy(update={"format": 2, "parts": {"control": config}})
    made = VideoModel(whole, model.autoencoder, model.denoiser, parts={"control": part})
    made.precision = "float32"
    return made
