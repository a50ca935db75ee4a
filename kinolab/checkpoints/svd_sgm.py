"""Stable Video Diffusion's U-Net in the layout of its first code (svd.safetensors, `model.diffusion_model.`).

The names are those of latent-diffusion's U-Net, with a `time_stack` and a `time_mixer` in every residual block and
transformer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kinolab.checkpoints.base import Guess, Shapes
from kinolab.checkpoints.null_prompt import NullPromptFormat
from kinolab.checkpoints.svd_layouts import check_svd, guess_svd
from kinolab.checkpoints.unet_ldm import RESNET, layers_of, ldm_name
from kinolab.denoisers.svd import Svd, SvdConfig

RESNET_SLOT = re.compile(r"(.+)\.after_resnet\.(\d+)\.(temporal_res_block|time_mixer)\.(.+)")
TRANSFORMER_SLOT = re.compile(r"(.+\.attentions\.\d+)\.inside_transformer\.(\d+)\.(.+)")
BESIDE = ("time_pos_embed.", "time_mixer.")
"""What belongs to a whole transformer, not to a block of it."""


def sgm_name(name: str, layers: int, attends: tuple[bool, ...]) -> str:
    """What the first code calls a tensor of ours; arguments as of `ldm_name`."""
    if name.startswith("add_embedding."):
        return name.replace("add_embedding.", "label_emb.0.")
    found = RESNET_SLOT.fullmatch(name)
    if found is not None:
        block, index, what, rest = found.groups()
        start = ldm_name(f"{block}.resnets.{index}.norm1.weight", layers, attends).removesuffix("in_layers.0.weight")
        if what == "time_mixer":
            return f"{start}time_mixer.{rest}"
        module, _, kind = rest.rpartition(".")
        return f"{start}time_stack.{RESNET[module]}.{kind}"
    found = TRANSFORMER_SLOT.fullmatch(name)
    if found is not None:
        transformer, depth, rest = found.groups()
        start = ldm_name(f"{transformer}.norm.weight", layers, attends).removesuffix("norm.weight")
        return f"{start}{rest}" if rest.startswith(BESIDE) else f"{start}time_stack.{depth}.{rest}"
    return ldm_name(name, layers, attends)


class SvdSgmFormat(NullPromptFormat):
    """Names that count through all blocks."""

    name = "svd_sgm"
    title = "Stable Video Diffusion's U-Net, layout of its first code"
    module_class = Svd
    config_class = SvdConfig

    def matches(self, shapes: Shapes) -> bool:
        marks = ("middle_block.0.time_stack.in_layers.0.weight", "input_blocks.0.0.weight", "out.2.weight")
        return all(name in shapes for name in marks)

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        layers, attends = layers_of(shapes)
        guess = guess_svd(lambda name: shapes.get(sgm_name(name, layers, attends)), settings)
        guess.values["eps"] = "original"
        guess.assumed["num_frames"] = "14, as in svd; svd_xt has 25"
        return guess

    def file_names(self, name: str, config: SvdConfig) -> tuple[str, ...]:
        levels = reversed(range(len(config.block_out_channels)))
        return (sgm_name(name, config.layers_per_block, tuple(i in config.attention_levels for i in levels)),)

    def check_writable(self, module: Svd) -> None:
        """Raises InputError where the first code has no such model."""
        check_svd(module, "Stable Video Diffusion's first code")
