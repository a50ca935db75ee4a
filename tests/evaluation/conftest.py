"""A tiny random model of the toy world, as a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kinolab.autoencoders import build
from kinolab.autoencoders.odvae import OdVaeConfig
from kinolab.denoisers import build as build_denoiser
from kinolab.denoisers.latte import LatteConfig
from kinolab.diffusion import SamplerConfig
from kinolab.methods import GuidanceConfig
from kinolab.models import ModelConfig, VideoModel
from kinolab.toyworld.clips import CLASSES

ODVAE = OdVaeConfig(hidden_size=8, hidden_size_mult=(1, 1, 1, 1), num_res_blocks=1, norm_num_groups=4)
LATTE = LatteConfig(
    hidden_size=32, depth=2, num_heads=2, input_size=8, num_frames=5, pooled_dim=384, num_classes=len(CLASSES)
)


TinyConfig = Callable[..., ModelConfig]


@pytest.fixture(scope="session")
def tiny_config() -> TinyConfig:
    """The config of a tiny model, 17 frames at 64 x 64; what it takes can be left out."""

    def make(pooled_dim: int = 384, num_classes: int = len(CLASSES)) -> ModelConfig:
        return ModelConfig(
            autoencoder=ODVAE,
            denoiser=LATTE.model_copy(update={"pooled_dim": pooled_dim, "num_classes": num_classes}),
            text_encoder="minilm" if pooled_dim else "none",
            class_names=CLASSES if num_classes == len(CLASSES) else (),
            sampler=SamplerConfig(steps=2),
            guidance=GuidanceConfig(scale=2.0),
        )

    return make


@pytest.fixture(scope="session")
def tiny_model(tiny_config: TinyConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random model that takes prompts and labels."""
    torch.manual_seed(0)
    config = tiny_config()
    assert config.denoiser is not None
    folder = tmp_path_factory.mktemp("tiny-model")
    VideoModel(config, build(config.autoencoder), build_denoiser(config.denoiser)).save(folder)
    return folder
