"""A tiny pipeline of Stable Video Diffusion with random weights, as diffusers saves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.random_weights import randomized

SIZE, FRAMES, WIDTH = (24, 32), 3, 16


def tiny_pipeline(seed: int = 0) -> Any:
    """diffusers' pipeline; its U-Net works on latents of 12 x 16 for frames of 24 x 32 pixels."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    torch.manual_seed(seed)
    unet = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        layers_per_block=1, num_attention_heads=(2, 4), cross_attention_dim=WIDTH, sample_size=16,
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=24, num_frames=FRAMES,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=1
    )
    clip = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=224, patch_size=56,
        projection_dim=WIDTH,
    )  # fmt: skip
    encoder = randomized(transformers.CLIPVisionModelWithProjection(clip), 0.05)
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        use_karras_sigmas=True, sigma_min=0.002, sigma_max=700.0, timestep_spacing="leading",
        timestep_type="continuous", steps_offset=1,
    )  # fmt: skip
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    made = diffusers.StableVideoDiffusionPipeline(
        vae=randomized(vae, 0.05), image_encoder=encoder, unet=randomized(unet, 0.05), scheduler=scheduler,
        feature_extractor=CLIPImageProcessorPil(),
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


def saved(folder: Path) -> Any:
    """The pipeline, with its folder."""
    made = tiny_pipeline()
    made.save_pretrained(folder)
    return made
