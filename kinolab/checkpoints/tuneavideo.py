"""Tune-A-Video's U-Net in its public layout: a folder as diffusers has them, with `attn_temp` and `norm_temp`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kinolab.checkpoints.base import Format, Guess, Shapes, header_of, public_tensors
from kinolab.checkpoints.files import write_folder
from kinolab.checkpoints.null_prompt import NULL, without_empty_null
from kinolab.checkpoints.unet_diffusers import diffusers_name
from kinolab.checkpoints.unet_layouts import check_holds, diffusers_settings, guess_unet
from kinolab.denoisers.tuneavideo import TuneAVideo, TuneAVideoConfig
from kinolab.errors import InputError

SLOT = re.compile(r"\.inside_transformer\.(\d+)\.")


def tuneavideo_name(name: str) -> str:
    """What the public code calls a tensor of ours: the layer over time is part of the transformer's block."""
    return diffusers_name(SLOT.sub(r".transformer_blocks.\1.", name))


class TuneAVideoFormat(Format):
    """The image model's names, and `attn_temp` and `norm_temp` in every block of a transformer."""

    name = "tuneavideo"
    title = "Tune-A-Video's U-Net, layout of diffusers"
    module_class = TuneAVideo
    config_class = TuneAVideoConfig
    absent = NULL
    folder = True

    def matches(self, shapes: Shapes) -> bool:
        mark = "mid_block.attentions.0.transformer_blocks.0.attn_temp.to_q.weight"
        return mark in shapes and "conv_in.weight" in shapes

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        guess = guess_unet(lambda name: shapes.get(tuneavideo_name(name)), settings)
        guess.values["norm_scope"] = "clip"
        guess.assumed["norm_scope"] = "clip, as the public code has it"
        return guess

    def file_names(self, name: str, config: TuneAVideoConfig) -> tuple[str, ...]:
        return (tuneavideo_name(name),)

    def check_writable(self, module: TuneAVideo) -> None:
        """Raises InputError where the public code has no such model."""
        c = module.config
        if c.norm_scope != "clip":
            raise InputError(
                "Tune-A-Video's code takes its norms over all frames of a clip, and this model was made with "
                "norm_scope frame: tune one with -s norm_scope=clip"
            )
        plain = {"norm_scope": "clip", "transformer_depth": 1, "reach": "first_previous", "upcast_attention": False}
        check_holds(c, "Tune-A-Video's code", plain)

    def write(self, module: TuneAVideo, path: Path) -> None:
        """Write a folder that Tune-A-Video's `UNet3DConditionModel.from_pretrained` loads: config.json and weights."""
        settings = diffusers_settings(module.config, "UNet3DConditionModel", "3D") | {
            "mid_block_type": "UNetMidBlock3DCrossAttn",
            "use_linear_projection": module.config.linear_projection,
        }
        write_folder(path, without_empty_null(public_tensors(self, module)), header_of(self, module), settings)
