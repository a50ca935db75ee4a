"""Recipes small enough to train inside a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

QUIET = {
    "device": "cpu", "precision": "float32", "tensorboard": False, "log_every": 1, "evaluate_every": 100,
    "sample_every": 100,
}  # fmt: skip


def autoencoder_recipe(**training: Any) -> dict[str, Any]:
    """A tiny image autoencoder on 32 px toy clips."""
    return {
        "kind": "autoencoder",
        "name": "tiny",
        "data": {"kind": "world", "world": {"size": 32, "frames": 5}, "count": 16, "heldout_count": 4},
        "autoencoder": {
            "kind": "image", "block_out_channels": [8, 8], "layers_per_block": 1, "latent_channels": 4,
            "norm_num_groups": 4, "mid_block_attention": False,
        },
        "heldout_clips": 2,
        "sample_clips": 1,
        "training": {"steps": 4, "batch_size": 4, "learning_rate": 1e-3, **QUIET, **training},
    }  # fmt: skip


def odvae_recipe(**training: Any) -> dict[str, Any]:
    """A tiny OD-VAE with images in the batch and a discriminator that starts at step 1."""
    recipe = autoencoder_recipe(**training)
    recipe["autoencoder"] = {
        "kind": "odvae", "hidden_size": 8, "hidden_size_mult": [1, 1, 1], "num_res_blocks": 1, "latent_channels": 4,
        "norm_num_groups": 4, "mid_attention": "none",
    }  # fmt: skip
    recipe["image_fraction"] = 0.5
    recipe["loss"] = {"adversarial": {"start_step": 1, "discriminator": {"width": 8, "layers": 2}}}
    return recipe


def dpvae_recipe(image: Path, **training: Any) -> dict[str, Any]:
    """A tiny DP-VAE around the image autoencoder of a run of `autoencoder_recipe`, with images in the batch."""
    recipe = autoencoder_recipe(**training)
    recipe["autoencoder"] = {
        "kind": "dpvae", "temporal_ratio": 2, "group_frames": 3, "regularisation": {"samples": 32},
        "image": {key: value for key, value in recipe["autoencoder"].items() if key != "kind"},
    }  # fmt: skip
    recipe["data"]["world"]["frames"] = 6
    recipe["initial"] = {"path": str(image), "method": "tail"}
    recipe["image_fraction"] = 0.25
    return recipe


def denoiser_recipe(autoencoder: Path, **training: Any) -> dict[str, Any]:
    """A tiny Latte with labels on clips that are encoded on the fly."""
    return {
        "kind": "denoiser",
        "name": "tiny",
        "data": {"kind": "world", "world": {"size": 32, "frames": 5}, "count": 16, "heldout_count": 4},
        "autoencoder": str(autoencoder),
        "denoiser": {
            "kind": "latte", "hidden_size": 16, "depth": 2, "num_heads": 2, "in_channels": 4, "input_size": 16,
            "num_frames": 5, "patch_size": 4, "num_classes": 6,
        },
        "heldout_clips": 2,
        "samples": {"labels": [1], "sampler": {"steps": 2}},
        "training": {"steps": 4, "batch_size": 4, "learning_rate": 1e-2, **QUIET, **training},
    }  # fmt: skip


def tasks_recipe(autoencoder: Path, given: str = "channels", **training: Any) -> dict[str, Any]:
    """A tiny VDT that learns every task, on clips that are encoded on the fly."""
    recipe = denoiser_recipe(autoencoder, **training)
    recipe["denoiser"] = {
        "kind": "vdt", "hidden_size": 16, "depth": 2, "num_heads": 2, "in_channels": 4, "input_size": 16,
        "num_frames": 5, "patch_size": 4, "given": given,
    }  # fmt: skip
    recipe["tasks"] = {"unconditional": 1, "predict": 2, "past": 1, "interpolate": 1, "animate": 1, "complete": 1}
    recipe["samples"] = {"count": 1, "sampler": {"steps": 2}}
    return recipe
