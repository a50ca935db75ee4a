"""AutoencoderKL in the layout of diffusers: a folder with config.json, or its weights file alone.

The scale and shift of the latents come from config.json; without one they are those of SD 1.x (4 channels) or SD 3
(16 channels), unless `latent_scale` and `latent_shift` are given. Weights from before diffusers 0.15, with attention
named query, key, value and proj_attn, are read too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from kinolab.autoencoders.image import ImageAutoencoder, ImageConfig
from kinolab.checkpoints.base import Format, Guess, Shapes, count, header_of, public_tensors
from kinolab.checkpoints.files import write_folder
from kinolab.checkpoints.image_layouts import assume_groups, assume_scaling, settings_of
from kinolab.config import Config

OLD_ATTENTION = ((".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn."))


class AutoencoderKLFormat(Format):
    """The names are the module's own."""

    name = "autoencoder_kl"
    title = "AutoencoderKL, layout of diffusers"
    module_class: type[nn.Module] = ImageAutoencoder
    config_class: type[Config] = ImageConfig
    folder = True

    def matches(self, shapes: Shapes) -> bool:
        mark = shapes.get("encoder.down_blocks.0.resnets.0.conv1.weight", ())
        return len(mark) == 4 and "decoder.up_blocks.0.resnets.0.conv1.weight" in shapes

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        guess, before = Guess(), "encoder.down_blocks."
        levels = range(count(shapes, before))
        widths = [shapes.get(f"{before}{i}.resnets.0.conv1.weight", (0,))[0] for i in levels]
        channels = shapes.get("encoder.conv_out.weight", (8,))[0] // 2
        guess.values = {
            "block_out_channels": widths,
            "layers_per_block": count(shapes, f"{before}0.resnets."),
            "latent_channels": channels,
            "channels": shapes.get("encoder.conv_in.weight", (0, 3))[1],
            "use_quant_conv": "quant_conv.weight" in shapes,
            "use_post_quant_conv": "post_quant_conv.weight" in shapes,
            "mid_block_attention": any(name.startswith("encoder.mid_block.attentions.") for name in shapes),
        }
        if settings:
            guess.values |= settings_of(settings)
        else:
            assume_groups(guess, widths)
            assume_scaling(guess, channels)
        return guess

    def file_names(self, name: str, config: ImageConfig) -> tuple[str, ...]:
        for new, old in OLD_ATTENTION:
            if ".attentions." in name and new in name:
                return name, name.replace(new, old)
        return (name,)

    def scaling(self, settings: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
        """diffusers' pipelines use (raw - latents_mean) * scaling_factor / latents_std."""
        mean, deviation = settings.get("latents_mean"), settings.get("latents_std")
        if mean is None or deviation is None:
            return None
        return list(mean), [settings.get("scaling_factor", 0.18215) / d for d in deviation]

    def write(self, module: ImageAutoencoder, path: Path) -> None:
        """Write a folder that diffusers' `AutoencoderKL.from_pretrained` loads: config.json and the weights."""
        write_folder(path, public_tensors(self, module), header_of(self, module), diffusers_config(module))


def diffusers_config(module: ImageAutoencoder) -> dict[str, Any]:
    """The arguments of diffusers' class; a scale that differs by channel is written as latents_mean and latents_std."""
    c, levels = module.config, len(module.config.block_out_channels)
    shift, scale = module.latent_shift.tolist(), module.latent_scale.tolist()
    values = {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": list(c.block_out_channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "in_channels": c.channels,
        "out_channels": c.channels,
        "latent_channels": c.latent_channels,
        "layers_per_block": c.layers_per_block,
        "norm_num_groups": c.norm_num_groups,
        "use_quant_conv": c.use_quant_conv,
        "use_post_quant_conv": c.use_post_quant_conv,
        "mid_block_add_attention": c.mid_block_attention,
        "sample_size": 256,
    }
    if len(set(shift)) == len(set(scale)) == 1:
        return values | {"scaling_factor": exact(scale[0]), "shift_factor": exact(shift[0]) or None}
    deviation = [exact(1 / s) for s in scale]
    return values | {"scaling_factor": 1.0, "latents_mean": shift, "latents_std": deviation}


def exact(value: float) -> float:
    """A float32 number in the fewest digits that tell it: 0.18215, not 0.1821500062942505."""
    return float(str(np.float32(value)))
