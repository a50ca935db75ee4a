"""ModelScope's text-to-video U-Net in the layout of diffusers (UNet3DConditionModel).

Its attention_head_dim is the size of a head, where the image class means their number by the same name.
"""

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
from kinolab.denoisers.modelscope import ModelScope, ModelScopeConfig
from kinolab.errors import InputError

SLOTS = (
    ("at_input.", "transformer_in."),
    (".after_resnet.", ".temp_convs."),
    (".after_attention.", ".temp_attentions."),
)
CONVOLUTION = re.compile(r"\.convs\.(\d)\.(norm|conv)\.")


def modelscope_name(name: str) -> str:
    """What diffusers calls a tensor of ours."""
    for ours, theirs in SLOTS:
        name = name.replace(ours, theirs)

    def layer(found: re.Match[str]) -> str:
        number, what = int(found[1]), found[2]
        # From the second on a dropout stands between SiLU and convolution.
        return f".conv{number + 1}.{0 if what == 'norm' else 2 if number == 0 else 3}."

    return diffusers_name(CONVOLUTION.sub(layer, name))


class ModelScopeFormat(Format):
    """The image model's names, and temp_convs, temp_attentions and transformer_in."""

    name = "modelscope"
    title = "ModelScope's video U-Net, layout of diffusers"
    module_class = ModelScope
    config_class = ModelScopeConfig
    absent = NULL
    folder = True

    def matches(self, shapes: Shapes) -> bool:
        marks = ("transformer_in.proj_in.weight", "mid_block.temp_convs.0.conv1.2.weight", "conv_in.weight")
        return all(m in shapes for m in marks)

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        heads = ("attention_head_dim", "head_size")
        return guess_unet(lambda name: shapes.get(modelscope_name(name)), settings, heads)

    def file_names(self, name: str, config: ModelScopeConfig) -> tuple[str, ...]:
        return (modelscope_name(name),)

    def check_writable(self, module: ModelScope) -> None:
        """Raises InputError where diffusers' class has no such model."""
        plain = {"linear_projection": True, "transformer_depth": 1, "upcast_attention": False}
        check_holds(module.config, "diffusers' class of this U-Net", plain)
        if module.config.head_size is None:
            sizes = {module.config.heads(i)[1] for i in range(len(module.config.block_out_channels))}
            if len(sizes) > 1:
                raise InputError(
                    f"diffusers' class has heads of one size, got {sorted(sizes)}: it can't hold this model"
                )

    def write(self, module: ModelScope, path: Path) -> None:
        """Write a folder that diffusers' `UNet3DConditionModel.from_pretrained` loads: config.json and weights."""
        sizes = [module.config.heads(i)[1] for i in range(len(module.config.block_out_channels))]
        heads = {"attention_head_dim": sizes[0] if len(set(sizes)) == 1 else sizes}
        settings = diffusers_settings(module.config, "UNet3DConditionModel", "3D") | heads
        write_folder(path, without_empty_null(public_tensors(self, module)), header_of(self, module), settings)
