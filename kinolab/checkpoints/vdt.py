"""VDT's official checkpoints: attention in time before attention in space inside each block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kinolab.checkpoints.base import Format, Guess, Shapes
from kinolab.checkpoints.transformers import guess_transformer, is_transformer
from kinolab.denoisers.vdt import Vdt, VdtConfig
from kinolab.errors import InputError

PUBLIC: dict[str, Any] = {
    "temporal_attention": "first",
    "qk_norm": False,
    "adaln": "block",
    "given": "none",
    "mlp_ratio": 4.0,
    "text_dim": 0,
    "pooled_dim": 0,
    "learned_variance": True,
}
"""What the official class has no choice of."""


class VdtFormat(Format):
    """One modulation per block for space and MLP; `temporal_fc` tells it from its kin."""

    name = "vdt"
    title = "VDT, official layout"
    module_class = Vdt
    config_class = VdtConfig

    def matches(self, shapes: Shapes) -> bool:
        return is_transformer(shapes) and "blocks.0.temporal_fc.weight" in shapes

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        guess = guess_transformer(shapes)
        if "time_embed" in shapes:
            guess.values["num_frames"] = shapes["time_embed"][1]
        else:
            guess.unknown["num_frames"] = "the file has no time_embed; pass the latent frames in training"
        return guess

    def check_writable(self, module: Vdt) -> None:
        """Raises InputError where the official class has no such model."""
        config = module.config
        differing = [f"{k}={getattr(config, k)}" for k, v in PUBLIC.items() if getattr(config, k) != v]
        if config.latent_size[0] != config.latent_size[1]:
            differing.append(f"input_size={config.input_size}")
        if not config.num_classes:
            differing.append("num_classes=0")
        if differing:
            raise InputError(f"VDT's official class has no {', '.join(differing)}: its layout can't hold this model")
