"""TAESD as diffusers' `AutoencoderTiny`: a folder with config.json, or its weights file alone.

Its names count the same layers as those of the makers' files, the decoder's without the clamp. It has neither the
global part (FLUX.2) nor a strided stem (Sana).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kinolab.autoencoders.taesd import Taesd, TaesdConfig
from kinolab.checkpoints.autoencoder_kl import exact
from kinolab.checkpoints.base import Format, Guess, Shapes, header_of, public_tensors
from kinolab.checkpoints.files import write_folder
from kinolab.checkpoints.taesd import public_name, refuse_videos, values_of
from kinolab.errors import InputError

FIXED = {"act_fn": "relu", "upsample_fn": "nearest", "upsampling_scaling_factor": 2}
"""Settings of the class that have no counterpart here, and their only value in published models."""


class TaesdDiffusersFormat(Format):
    """The names are `encoder.layers` and `decoder.layers`, and numbers."""

    name = "taesd_diffusers"
    title = "AutoencoderTiny (TAESD), layout of diffusers"
    module_class = Taesd
    config_class = TaesdConfig
    folder = True

    def matches(self, shapes: Shapes) -> bool:
        marks = ("encoder.layers.0.weight", "encoder.layers.1.conv.0.weight", "decoder.layers.2.conv.0.weight")
        return all(len(shapes.get(mark, ())) == 4 for mark in marks)

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        guess = Guess(values_of({name.replace(".layers.", "."): shape for name, shape in shapes.items()}))
        for key, expected in FIXED.items():
            if settings.get(key, expected) != expected:
                raise InputError(
                    f"config.json: {key} {settings[key]!r} is not supported, expected {expected!r}; diffusers itself "
                    "runs it (kinolab[interop]): give the folder where an autoencoder is expected"
                )
        guess.values |= {
            "latent_scale": settings.get("scaling_factor", 1.0),
            "latent_shift": settings.get("shift_factor") or 0.0,
        }
        return guess

    def file_names(self, name: str, config: TaesdConfig) -> tuple[str, ...]:
        first = {"encoder": 0, "decoder": 1}  # there is no clamp among the decoder's layers
        return (public_name(name, config, lambda part, number: f"{part}.layers.{number - first[part]}"),)

    def check_writable(self, module: Taesd) -> None:
        c = module.config
        refuse_videos(module)
        missing = {"the global part": c.global_part, "a strided stem": bool(c.stem)}
        missing |= {"widths that differ": len(set(c.decoder_widths)) > 1}
        for what, there in missing.items():
            if there:
                raise InputError(f"diffusers' AutoencoderTiny has not {what}; use --to public")
        if len(set(module.latent_scale.tolist())) > 1 or len(set(module.latent_shift.tolist())) > 1:
            raise InputError("diffusers' AutoencoderTiny has one scale for all latent channels; use --to public")

    def write(self, module: Taesd, path: Path) -> None:
        """Write a folder that diffusers' `AutoencoderTiny.from_pretrained` loads: config.json and the weights."""
        c = module.config
        values = FIXED | {
            "_class_name": "AutoencoderTiny",
            "in_channels": c.channels,
            "out_channels": c.channels,
            "latent_channels": c.latent_channels,
            "encoder_block_out_channels": [c.width] * len(c.encoder_blocks),
            "decoder_block_out_channels": list(c.decoder_widths),
            "num_encoder_blocks": list(c.encoder_blocks),
            "num_decoder_blocks": list(c.decoder_blocks),
            "scaling_factor": exact(module.latent_scale[0].item()),
            "shift_factor": exact(module.latent_shift[0].item()),
        }
        write_folder(path, public_tensors(self, module), header_of(self, module), values)
