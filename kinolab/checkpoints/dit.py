"""DiT's official checkpoints: the class-conditional image transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kinolab.checkpoints.base import Format, Guess, Shapes
from kinolab.checkpoints.transformers import guess_transformer, is_transformer
from kinolab.denoisers.dit import DiT, DiTConfig
from kinolab.errors import InputError


class DiTFormat(Format):
    """An image transformer; it has nothing temporal."""

    name = "dit"
    title = "DiT, official layout"
    module_class = DiT
    config_class = DiTConfig

    def matches(self, shapes: Shapes) -> bool:
        # Latte has the table temp_embed, VDT time_embed and temporal_attn.
        temporal = any("temp" in name or "time_embed" in name for name in shapes)
        return is_transformer(shapes) and not temporal and len(shapes["x_embedder.proj.weight"]) == 4

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        return guess_transformer(shapes)

    def check_writable(self, module: DiT) -> None:
        """Raises InputError where the official class has no such model."""
        h, w = module.config.latent_size
        if h != w or not module.config.num_classes:
            raise InputError("DiT's official class takes square latents and class labels; its layout can't hold this")
