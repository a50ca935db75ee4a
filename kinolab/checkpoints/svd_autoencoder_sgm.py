"""Stable Video Diffusion's autoencoder in the layout of its first code (svd.safetensors, `first_stage_model.`).

There is no quant_conv in it: where a module has one, it is written into the encoder's last convolution, which is the
same function. The scale of the latents is Stable Diffusion's; no file tells it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kinolab.autoencoders.temporal_decoder import TemporalDecoderAutoencoder, TemporalDecoderConfig
from kinolab.checkpoints.base import Guess, Shapes, header_of, public_tensors
from kinolab.checkpoints.files import write_safetensors
from kinolab.checkpoints.ldm_autoencoder import LdmAutoencoderFormat
from kinolab.errors import InputError

RENAMED = (
    (".spatial_res_block.", "."),
    (".temporal_res_block.norm1.", ".time_stack.in_layers.0."),
    (".temporal_res_block.conv1.", ".time_stack.in_layers.2."),
    (".temporal_res_block.norm2.", ".time_stack.out_layers.0."),
    (".temporal_res_block.conv2.", ".time_stack.out_layers.3."),
    (".time_mixer.mix_factor", ".mix_factor"),
    (".time_conv_out.", ".conv_out.time_mix_conv."),
)
"""Names of the layers over time, ours and the file's."""


class SvdAutoencoderSgmFormat(LdmAutoencoderFormat):
    """The names of latent-diffusion's autoencoder, with a `time_stack` in each residual block of the decoder."""

    name = "svd_autoencoder_sgm"
    title = "Stable Video Diffusion's autoencoder, layout of its first code"
    module_class: type[nn.Module] = TemporalDecoderAutoencoder
    config_class = TemporalDecoderConfig

    def matches(self, shapes: Shapes) -> bool:
        return super().matches(shapes) and "decoder.conv_out.time_mix_conv.weight" in shapes

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        guess = super().guess(shapes, settings)
        guess.values["middle_blocks"] = 2
        return guess

    def file_names(self, name: str, config: Any) -> tuple[str, ...]:
        for ours, theirs in RENAMED:
            name = name.replace(ours, theirs)
        return super().file_names(name, config)

    def check_writable(self, module: TemporalDecoderAutoencoder) -> None:
        """Raises InputError for what the first code has no counterpart of."""
        c = module.config
        plain = {"use_post_quant_conv": False, "norm_num_groups": 32, "middle_blocks": 2}
        differing = [f"{name}={getattr(c, name)}" for name, value in plain.items() if getattr(c, name) != value]
        if differing:
            raise InputError(f"Stable Video Diffusion's first code has no {', '.join(differing)}")

    def write(self, module: Any, path: Path) -> None:
        """Write a .safetensors file, without the prefix that whole checkpoints have."""
        if path.suffix != ".safetensors":
            raise InputError(f"{path}: format {self.name} is written to a .safetensors file")
        header, config = header_of(self, module), module.config
        tensors = {
            name: value[..., None, None] if ".attn_1." in name and value.ndim == 2 else value
            for name, value in public_tensors(self, module).items()
        }
        if config.use_quant_conv:
            # (O, O) of a 1 x 1 convolution, which is put into the one before it
            outer = tensors.pop("quant_conv.weight")[:, :, 0, 0]
            weight, bias = tensors["encoder.conv_out.weight"], tensors["encoder.conv_out.bias"]
            tensors["encoder.conv_out.weight"] = torch.einsum("oi,ichw->ochw", outer, weight)
            tensors["encoder.conv_out.bias"] = outer @ bias + tensors.pop("quant_conv.bias")
            header["config"]["use_quant_conv"] = False
        write_safetensors(path, tensors, header)
