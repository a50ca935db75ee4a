"""Video models: their parts, the folder that they are saved in, and packing."""

from kinolab.conditioning import GivenPart
from kinolab.contracts.request import Request
from kinolab.models.folder import (
    ModelConfig,
    autoencoder_config,
    build_part,
    find_autoencoder,
    find_model,
    load_autoencoder,
    load_denoiser,
    load_part,
    read_model_config,
    save_autoencoder,
    shipped_models,
    trained_size,
)
from kinolab.models.model import VideoModel
from kinolab.models.part import Inner, ModelPart

__all__ = [
    "GivenPart",
    "Inner",
    "ModelConfig",
    "ModelPart",
    "Request",
    "VideoModel",
    "autoencoder_config",
    "build_part",
    "find_autoencoder",
    "find_model",
    "load_autoencoder",
    "load_denoiser",
    "load_part",
    "read_model_config",
    "save_autoencoder",
    "shipped_models",
    "trained_size",
]
