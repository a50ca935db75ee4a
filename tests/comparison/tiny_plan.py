"""A comparison small enough to run inside a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

QUIET = {"precision": "float32", "tensorboard": False, "log_every": 1, "save_every": 1, "batch_size": 2}
IMAGE = {
    "kind": "image", "block_out_channels": [8, 8, 8], "layers_per_block": 1, "latent_channels": 4,
    "norm_num_groups": 4, "mid_block_attention": False,
}  # fmt: skip
ODVAE = {
    "kind": "odvae", "hidden_size": 8, "hidden_size_mult": [1, 1, 1], "num_res_blocks": 1, "latent_channels": 4,
    "norm_num_groups": 4, "mid_attention": "none",
}  # fmt: skip


def tiny_plan(**changes: Any) -> dict[str, Any]:
    """An image autoencoder and an OD-VAE that starts from it, in front of a Latte, at 32 pixels and 5 frames."""
    return {
        "name": "tiny",
        "data": {"world": {"kind": "world", "world": {"size": 32, "frames": 5}, "count": 16}},
        "budgets": {"small": {"autoencoder": {"steps": 2}, "denoiser": {"steps": 2}}},
        "autoencoders": {
            "odvae": {"autoencoder": ODVAE, "initial": {"entry": "image", "method": "tail"}},
            "image": {"autoencoder": IMAGE},
        },
        "autoencoder_training": {"heldout_clips": 2, "sample_clips": 1, "training": QUIET},
        "denoisers": {
            "latte": {"denoiser": {"kind": "latte", "hidden_size": 16, "depth": 2, "num_heads": 2, "patch_size": 4}},
        },
        "denoiser_training": {
            "heldout_clips": 2, "samples": {"count": 1, "sampler": {"steps": 1}}, "training": QUIET,
        },
        "cached_clips": 8,
        "sampler": {"name": "euler", "steps": 1},
        "videos": 1,
        "reconstruction_changes": {"frames": 5, "samples": 6, "minimum": 4},
        "generation_changes": {"frames": 5, "samples": 6, "minimum": 4},
        **changes,
    }  # fmt: skip


def write_plan(folder: Path, **changes: Any) -> Path:
    """The plan as a file."""
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(tiny_plan(**changes)), encoding="utf-8")
    return path
