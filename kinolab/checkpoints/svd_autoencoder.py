"""Stable Video Diffusion's autoencoder in the layout of diffusers (AutoencoderKLTemporalDecoder)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kinolab.autoencoders.temporal_decoder import TemporalDecoderAutoencoder, TemporalDecoderConfig
from kinolab.checkpoints.autoencoder_kl import AutoencoderKLFormat, exact
from kinolab.checkpoints.base import Guess, Shapes, count, header_of, public_tensors
from kinolab.checkpoints.files import write_folder
from kinolab.errors import InputError


class SvdAutoencoderFormat(AutoencoderKLFormat):
    """The names are the module's own."""

    name = "svd_autoencoder"
    title = "AutoencoderKLTemporalDecoder, layout of diffusers"
    module_class: type[nn.Module] = TemporalDecoderAutoencoder
    config_class = TemporalDecoderConfig

    def matches(self, shapes: Shapes) -> bool:
        marks = ("encoder.down_blocks.0.resnets.0.conv1.weight", "decoder.time_conv_out.weight")
        return all(name in shapes for name in marks)

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        guess = super().guess(shapes, settings)
        guess.values["middle_blocks"] = count(shapes, "decoder.mid_block.resnets.")
        return guess

    def check_writable(self, module: TemporalDecoderAutoencoder) -> None:
        """Raises InputError for what diffusers' class has no setting for."""
        c = module.config
        plain = {
            "norm_num_groups": 32, "use_post_quant_conv": False, "mid_block_attention": True,
            "middle_blocks": c.layers_per_block,
        }  # fmt: skip
        differing = [f"{name}={getattr(c, name)}" for name, value in plain.items() if getattr(c, name) != value]
        if len(set(module.latent_scale.tolist())) > 1 or module.latent_shift.any():
            differing.append("scale by channel, or shift")
        if differing:
            raise InputError(f"diffusers' AutoencoderKLTemporalDecoder has no {', '.join(differing)}")

    def write(self, module: Any, path: Path) -> None:
        """Write a folder that diffusers' class loads; a missing quant_conv is written as the identity, which it has."""
        c, tensors = module.config, public_tensors(self, module)
        if not c.use_quant_conv:
            both = 2 * c.latent_channels
            tensors["quant_conv.weight"] = torch.eye(both)[:, :, None, None]
            tensors["quant_conv.bias"] = torch.zeros(both)
        settings = {
            "_class_name": "AutoencoderKLTemporalDecoder",
            "block_out_channels": list(c.block_out_channels),
            "down_block_types": ["DownEncoderBlock2D"] * len(c.block_out_channels),
            "in_channels": c.channels,
            "out_channels": c.channels,
            "latent_channels": c.latent_channels,
            "layers_per_block": c.layers_per_block,
            "scaling_factor": exact(float(module.latent_scale[0])),
            "force_upcast": True,
            "sample_size": 768,
        }
        header = header_of(self, module)
        header["config"]["use_quant_conv"] = True
        write_folder(path, tensors, header, settings)
