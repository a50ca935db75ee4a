"""The U-Net of Stable Diffusion 1.x and 2.x in the layout of diffusers (UNet2DConditionModel)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kinolab.checkpoints.base import Format, Guess, Shapes, header_of, public_tensors
from kinolab.checkpoints.files import write_folder
from kinolab.checkpoints.null_prompt import NULL, without_empty_null
from kinolab.checkpoints.unet_layouts import check_holds, diffusers_settings, guess_unet
from kinolab.denoisers.unet import Unet, UnetConfig, UnetFields
from kinolab.errors import InputError

TIME = (("time_embedding.mlp.0.", "time_embedding.linear_1."), ("time_embedding.mlp.2.", "time_embedding.linear_2."))

OVER_TIME = ("temp_convs", "motion_modules", "temporal", "attn_temp", "time_mixer")
"""Words in the names of video systems made of it."""


def diffusers_name(name: str) -> str:
    """What diffusers calls a tensor of the image model."""
    for ours, theirs in TIME:
        name = name.replace(ours, theirs)
    return name


class UnetDiffusersFormat(Format):
    """The names are the module's own but for the time's embedding."""

    name = "unet_diffusers"
    title = "Stable Diffusion's U-Net, layout of diffusers"
    module_class = Unet
    config_class = UnetConfig
    absent = NULL
    folder = True

    def matches(self, shapes: Shapes) -> bool:
        marks = ("conv_in.weight", "time_embedding.linear_1.weight", "mid_block.attentions.0.proj_in.weight")
        over_time = any(word in name for name in shapes for word in OVER_TIME)
        return all(m in shapes for m in marks) and "conv_out.weight" in shapes and not over_time

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        return guess_unet(lambda name: shapes.get(diffusers_name(name)), settings)

    def file_names(self, name: str, config: UnetFields) -> tuple[str, ...]:
        return (diffusers_name(name),)

    def check_writable(self, module: Unet) -> None:
        """Raises InputError where diffusers' class has no such model."""
        check_holds(module.config, "diffusers' class of this U-Net")
        if type(module) is not Unet:
            raise InputError(f"format {self.name} holds an image U-Net, got a {type(module).__name__}")

    def write(self, module: Unet, path: Path) -> None:
        """Write a folder that diffusers' `UNet2DConditionModel.from_pretrained` loads: config.json and weights."""
        c = module.config
        settings = diffusers_settings(c, "UNet2DConditionModel") | {
            "transformer_layers_per_block": c.transformer_depth,
            "use_linear_projection": c.linear_projection,
            "upcast_attention": c.upcast_attention,
        }
        write_folder(path, without_empty_null(public_tensors(self, module)), header_of(self, module), settings)
