"""The image autoencoder in the layout of its first code (latent-diffusion, Stable Diffusion's .ckpt files, Flux).

In a whole Stable Diffusion checkpoint it is under the prefix `first_stage_model.`. There is no config beside it: the
scale and shift of the latents are those of SD 1.x (4 channels) or SD 3 (16), unless `latent_scale` and `latent_shift`
are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kinolab.autoencoders.image import ImageAutoencoder, ImageConfig
from kinolab.autoencoders.inflate import odvae_name
from kinolab.checkpoints.base import Format, Guess, Shapes, count, header_of, public_tensors
from kinolab.checkpoints.files import write_safetensors
from kinolab.checkpoints.image_layouts import assume_groups, assume_scaling
from kinolab.config import Config
from kinolab.errors import InputError


class LdmAutoencoderFormat(Format):
    """The names are those that OD-VAE inherited, without its 3D convolutions."""

    name = "ldm_autoencoder"
    title = "AutoencoderKL, layout of latent-diffusion"
    module_class: type[nn.Module] = ImageAutoencoder
    config_class: type[Config] = ImageConfig
    ignored = ("loss.", "model_ema.decay", "model_ema.num_updates")

    def matches(self, shapes: Shapes) -> bool:
        marks = ("encoder.down.0.block.0.conv1.weight", "encoder.conv_out.weight", "decoder.conv_out.weight")
        discrete = any(name.startswith("quantize.") for name in shapes)  # a VQGAN
        return all(len(shapes.get(name, ())) == 4 for name in marks) and not discrete

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        guess, before = Guess(), "encoder.down."
        levels = range(count(shapes, before))
        widths = [shapes.get(f"{before}{i}.block.0.conv1.weight", (0,))[0] for i in levels]
        channels = shapes["encoder.conv_out.weight"][0] // 2
        guess.values = {
            "block_out_channels": widths,
            "layers_per_block": count(shapes, f"{before}0.block."),
            "latent_channels": channels,
            "channels": shapes["decoder.conv_out.weight"][0],
            "use_quant_conv": "quant_conv.weight" in shapes,
            "use_post_quant_conv": "post_quant_conv.weight" in shapes,
            "mid_block_attention": "encoder.mid.attn_1.q.weight" in shapes,
        }
        assume_groups(guess, widths)
        assume_scaling(guess, channels)
        return guess

    def file_names(self, name: str, config: ImageConfig) -> tuple[str, ...]:
        return (odvae_name(name, levels=len(config.block_out_channels)),)

    def write(self, module: ImageAutoencoder, path: Path) -> None:
        """Write a .safetensors file; the linear layers of attention are convolutions of kernel 1 in this layout."""
        if path.suffix != ".safetensors":
            raise InputError(f"{path}: format {self.name} is written to a .safetensors file")
        tensors = {
            name: value[..., None, None] if ".attn_1." in name and value.ndim == 2 else value
            for name, value in public_tensors(self, module).items()
        }
        write_safetensors(path, tensors, header_of(self, module))
