"""Latte's official checkpoints (variant 1 of the paper): unconditional or with class labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kinolab.checkpoints.base import Format, Guess, Shapes
from kinolab.checkpoints.transformers import guess_transformer, is_transformer
from kinolab.denoisers.latte import Latte, LatteConfig
from kinolab.errors import InputError

PUBLIC: dict[str, Any] = {
    "variant": "interleaved",
    "patch_embedding": "uniform",
    "injection": "adaln",
    "adaln": "block",
    "temporal_position": "absolute",
    "text_dim": 0,
    "pooled_dim": 0,
    "qk_norm": False,
    "reach": "own",
    "learned_variance": True,
}
"""What the official class has no choice of."""


class LatteFormat(Format):
    """Spatial and temporal blocks in turn, each with its own modulation; `temp_embed` tells it from DiT."""

    name = "latte"
    title = "Latte, official layout"
    module_class = Latte
    config_class = LatteConfig

    def matches(self, shapes: Shapes) -> bool:
        return is_transformer(shapes) and "temp_embed" in shapes

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        guess = guess_transformer(shapes)
        embed = shapes["x_embedder.proj.weight"]
        if len(embed) == 5:
            guess.values |= {"patch_embedding": "compression", "temporal_patch": embed[2]}
        if "temp_embed" in shapes:
            guess.values["num_frames"] = shapes["temp_embed"][1] * guess.values.get("temporal_patch", 1)
        else:
            guess.unknown["num_frames"] = "the file has no temp_embed; pass the latent frames in training"
        guess.values["variant"] = "interleaved"
        guess.assumed["variant"] = "interleaved; late_fusion and split_heads have the same names"
        return guess

    def check_writable(self, module: Latte) -> None:
        """Raises InputError where the official class has no such variant."""
        differing = [f"{k}={getattr(module.config, k)}" for k, v in PUBLIC.items() if getattr(module.config, k) != v]
        if module.config.latent_size[0] != module.config.latent_size[1]:
            differing.append(f"input_size={module.config.input_size}")
        if differing:
            raise InputError(f"Latte's official class has no {', '.join(differing)}: its layout can't hold this model")
