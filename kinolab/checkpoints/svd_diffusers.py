"""Stable Video Diffusion's U-Net in the layout of diffusers (UNetSpatioTemporalConditionModel)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kinolab.checkpoints.base import Format, Guess, Shapes, header_of, public_tensors
from kinolab.checkpoints.files import write_folder
from kinolab.checkpoints.null_prompt import NULL, without_empty_null
from kinolab.checkpoints.svd_layouts import check_svd, guess_svd
from kinolab.checkpoints.unet_diffusers import diffusers_name
from kinolab.checkpoints.unet_layouts import check_holds, diffusers_settings
from kinolab.denoisers.svd import Svd, SvdConfig

RULES = (
    (re.compile(r"\.resnets\.(\d+)\."), r".resnets.\1.spatial_res_block."),
    (re.compile(r"\.after_resnet\.(\d+)\."), r".resnets.\1."),
    (re.compile(r"\.inside_transformer\.\d+\.time_pos_embed\.0\."), ".time_pos_embed.linear_1."),
    (re.compile(r"\.inside_transformer\.\d+\.time_pos_embed\.2\."), ".time_pos_embed.linear_2."),
    (re.compile(r"\.inside_transformer\.\d+\.time_mixer\."), ".time_mixer."),
    (re.compile(r"\.inside_transformer\.(\d+)\."), r".temporal_transformer_blocks.\1."),
    (re.compile(r"^add_embedding\.0\."), "add_embedding.linear_1."),
    (re.compile(r"^add_embedding\.2\."), "add_embedding.linear_2."),
)
"""Our names and theirs; the first that fits is it."""


def svd_name(name: str) -> str:
    """What diffusers calls a tensor of ours."""
    for ours, theirs in RULES:
        if ours.search(name):
            return ours.sub(theirs, name)
    return diffusers_name(name)


class SvdDiffusersFormat(Format):
    """The image model's names with `spatial_res_block`, and those of the layers over time beside them."""

    name = "svd_diffusers"
    title = "Stable Video Diffusion's U-Net, layout of diffusers"
    module_class = Svd
    config_class = SvdConfig
    absent = NULL

    def matches(self, shapes: Shapes) -> bool:
        marks = ("mid_block.resnets.0.temporal_res_block.conv1.weight", "mid_block.attentions.0.time_mixer.mix_factor")
        return all(name in shapes for name in marks) and "conv_out.weight" in shapes

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        guess = guess_svd(lambda name: shapes.get(svd_name(name)), settings)
        if "num_frames" in settings:
            guess.values["num_frames"] = settings["num_frames"]
        return guess

    def file_names(self, name: str, config: SvdConfig) -> tuple[str, ...]:
        return (svd_name(name),)

    def check_writable(self, module: Svd) -> None:
        """Raises InputError where diffusers' class has no such model."""
        layout = "diffusers' UNetSpatioTemporalConditionModel"
        check_svd(module, layout)
        check_holds(module.config, layout, {"norm_groups": 32})

    def write(self, module: Svd, path: Path) -> None:
        """Write a folder that diffusers' class loads: config.json and weights."""
        c = module.config
        settings = diffusers_settings(c, "UNetSpatioTemporalConditionModel", "SpatioTemporal")
        heads = settings.pop("attention_head_dim")
        for key in ("norm_num_groups", "norm_eps"):  # which the class has no choice of
            del settings[key]
        settings |= {
            "num_attention_heads": heads,
            "num_frames": c.num_frames,
            "addition_time_embed_dim": c.number_features,
            "projection_class_embeddings_input_dim": c.number_features * len(c.numbers),
            "transformer_layers_per_block": c.transformer_depth,
        }
        write_folder(path, without_empty_null(public_tensors(self, module)), header_of(self, module), settings)
