"""A tiny video model with random weights, text and labels, saved as a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kinolab.autoencoders import ImageConfig, OdVaeConfig, PixelConfig
from kinolab.autoencoders import build as build_autoencoder
from kinolab.contracts.causal import CausalConfig
from kinolab.denoisers import ImagenVideoConfig, LatteConfig, UnetConfig, VdtConfig
from kinolab.denoisers import build as build_denoiser
from kinolab.diffusion import DiffusionConfig, SamplerConfig
from kinolab.methods import GuidanceConfig
from kinolab.models import ModelConfig, VideoModel
from kinolab.models.stage import LaterStage
from kinolab.models.stage_config import LaterStageConfig
from kinolab.tasks import TasksConfig


def tiny_model(*, text: bool = True) -> VideoModel:
    """32 px, 5 frames, 3 classes; the output layer is perturbed, so that conditions matter."""
    autoencoder = OdVaeConfig(
        hidden_size=8, hidden_size_mult=(1, 1, 1), num_res_blocks=1, latent_channels=4, norm_num_groups=4,
        mid_attention="none",
    )  # fmt: skip
    denoiser = LatteConfig(
        hidden_size=16, depth=2, num_heads=2, in_channels=4, input_size=8, num_frames=2, patch_size=2, num_classes=3,
        text_dim=384 if text else 0,
    )  # fmt: skip
    config = ModelConfig(
        autoencoder=autoencoder, denoiser=denoiser, diffusion=DiffusionConfig(schedule="flow", prediction="flow"),
        text_encoder="minilm" if text else "none", class_names=("fall", "throw", "float"), frames=5, size=(32, 32),
        sampler=SamplerConfig(name="euler", steps=3), guidance=GuidanceConfig(scale=2.0),
    )  # fmt: skip
    torch.manual_seed(0)
    model = VideoModel(config, build_autoencoder(autoencoder), build_denoiser(denoiser))
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.precision = "float32"
    return model


def tiny_image_model(**fields: Any) -> VideoModel:
    """An image U-Net for prompts on an image autoencoder of ratio 4, 32 px; the output layer is perturbed.

    fields: more of the denoiser's.
    """
    autoencoder = ImageConfig(block_out_channels=(8, 8, 8), layers_per_block=1, norm_num_groups=4)
    denoiser = UnetConfig(
        block_out_channels=(8, 16), layers_per_block=1, attention_levels=(0,), num_heads=2, norm_groups=4, input_size=8,
        text_dim=384, **fields,
    )  # fmt: skip
    config = ModelConfig(
        autoencoder=autoencoder, denoiser=denoiser, diffusion=DiffusionConfig(schedule="flow", prediction="flow"),
        text_encoder="minilm", frames=1, size=(32, 32), sampler=SamplerConfig(name="euler", steps=6),
        guidance=GuidanceConfig(scale=2.0),
    )  # fmt: skip
    torch.manual_seed(0)
    model = VideoModel(config, build_autoencoder(autoencoder), build_denoiser(denoiser))
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.precision = "float32"
    return model


def save_tiny_model(folder: Path, *, text: bool = True) -> Path:
    """Write the model folder and return it."""
    tiny_model(text=text).save(folder)
    return folder


def tiny_steered() -> VideoModel:
    """The same, unconditional but for a control map, which it reads as a field beside its latents."""
    model = tiny_model(text=False)
    assert isinstance(model.config.denoiser, LatteConfig)
    denoiser = model.config.denoiser.model_copy(update={"fields": {"control": 4}, "num_classes": 0})
    config = model.config.model_copy(update={"denoiser": denoiser, "class_names": ()})
    return VideoModel(config, model.autoencoder, build_denoiser(denoiser))


def tiny_cascade(first: VideoModel) -> VideoModel:
    """A tiny model followed by a stage `sr` of 64 px that is told what the first one made, and nothing else."""
    denoiser = LatteConfig(
        hidden_size=16, depth=2, num_heads=2, in_channels=4, input_size=16, num_frames=2, patch_size=2,
        fields={"low_resolution": 4},
    )  # fmt: skip
    shared = {name: getattr(first.config, name) for name in ("diffusion", "frames", "sampler")}
    config = LaterStageConfig(name="sr", denoiser=denoiser, size=(64, 64), **shared)
    torch.manual_seed(3)
    stage = LaterStage(config, first.autoencoder, build_denoiser(denoiser))
    with torch.no_grad():
        for parameter in stage.denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    whole = first.config.model_copy(update={"format": 2, "stages": (config,)})
    made = VideoModel(whole, first.autoencoder, first.denoiser, stages=[stage])
    made.precision = stage.precision = "float32"
    return made


def tiny_vdt(given: str = "channels", tasks: TasksConfig | None = None) -> VideoModel:
    """An unconditional VDT on the same autoencoder that takes a given part; trained to predict from 1 to 3 frames."""
    model = tiny_model(text=False)
    denoiser = VdtConfig.model_validate({
        "hidden_size": 16, "depth": 2, "num_heads": 2, "in_channels": 4, "input_size": 8, "num_frames": 2,
        "given": given, "mask_channels": 4,
    })  # fmt: skip
    tasks = tasks if tasks is not None else TasksConfig(predict=1, complete=1, predict_frames=(1, 3))
    changes = {"denoiser": denoiser, "guidance": GuidanceConfig(), "tasks": tasks, "class_names": ()}
    torch.manual_seed(1)
    network = build_denoiser(denoiser)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    made = VideoModel(model.config.model_copy(update=changes), model.autoencoder, network)
    made.precision = "float32"
    return made


def tiny_pixels(*, size: int = 8, frames: int = 3, fps: float = 2.0, low: dict[str, Any] | None = None) -> VideoModel:
    """A transformer on pixels with labels; with `low`, one that refines clips (`LowResolutionConfig`)."""
    ports = {} if low is None else {"vectors": {"noise_level": 0}, "fields": {"low_resolution": 3}}
    denoiser = LatteConfig(
        hidden_size=16, depth=2, num_heads=2, in_channels=3, input_size=size, num_frames=frames, patch_size=4,
        num_classes=3, **ports,
    )  # fmt: skip
    conditions = {} if low is None else {"low_resolution": low}
    config = ModelConfig.model_validate({
        "autoencoder": PixelConfig(), "denoiser": denoiser, "frames": frames, "size": (size, size), "fps": fps,
        "diffusion": DiffusionConfig(schedule="flow", prediction="flow"), "conditions": conditions,
        "sampler": SamplerConfig(name="euler", steps=2),
    })  # fmt: skip
    torch.manual_seed(size + frames)
    model = VideoModel(config, build_autoencoder(config.autoencoder), build_denoiser(denoiser))
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.precision = "float32"
    return model


def tiny_causal(**rule: Any) -> VideoModel:
    """A causal model of 3 latent frames a clip with text: by default blocks of one latent that read two before them."""
    model = tiny_model()
    denoiser = VdtConfig(
        hidden_size=16, depth=2, num_heads=1, in_channels=4, input_size=8, num_frames=3, patch_size=4, text_dim=384,
        temporal_attention="joint",
    )  # fmt: skip
    causal = CausalConfig.model_validate({"window": 2, **rule})
    changes = {"denoiser": denoiser, "class_names": (), "causal": causal, "frames": 9}
    torch.manual_seed(0)
    made = VideoModel(model.config.model_copy(update=changes), model.autoencoder, build_denoiser(denoiser))
    with torch.no_grad():
        for parameter in made.denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    made.precision = "float32"
    return made


def tiny_convolutions(*, size: int = 16, frames: int = 5, low: dict[str, Any]) -> VideoModel:
    """Imagen Video's super-resolution on pixels: convolutions alone, over frames too."""
    denoiser = ImagenVideoConfig(
        temporal="convolution", spatial_attention=False, in_channels=3, input_size=size, num_frames=frames,
        block_out_channels=(8, 8), layers_per_block=1, attention_levels=(), head_size=8, norm_groups=4,
        concatenated={"low_resolution": 3}, vectors={"noise_level": 0},
    )  # fmt: skip
    config = ModelConfig.model_validate({
        "autoencoder": PixelConfig(), "denoiser": denoiser, "frames": frames, "size": (size, size), "fps": 8.0,
        "diffusion": DiffusionConfig(schedule="cosine", prediction="v"), "conditions": {"low_resolution": low},
        "sampler": SamplerConfig(steps=2),
    })  # fmt: skip
    torch.manual_seed(2)
    model = VideoModel(config, build_autoencoder(config.autoencoder), build_denoiser(denoiser))
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.precision = "float32"
    return model
