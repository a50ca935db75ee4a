"""Control networks of Stable Diffusion 3 in the layout of diffusers (SD3ControlNetModel): a folder or weights alone.

Those of Stable Diffusion 3.5 large that read no prompt (no `context_embedder`) are another network, and not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kinolab.checkpoints.base import Guess, Shapes, header_of, public_tensors
from kinolab.checkpoints.files import write_folder
from kinolab.checkpoints.null_prompt import without_empty_null
from kinolab.checkpoints.sd3_diffusers import Sd3DiffusersFormat, diffusers_config
from kinolab.denoisers.controlnet_mmdit import ControlNetMmdit, ControlNetMmditConfig
from kinolab.denoisers.mmdit import Mmdit, MmditConfig


class ControlNetSd3Format(Sd3DiffusersFormat):
    """SD3's names in the layout of diffusers, with `controlnet_blocks` and `pos_embed_input`."""

    name = "controlnet_sd3"
    title = "a control network of SD3, layout of diffusers"
    module_class = ControlNetMmdit
    config_class = ControlNetMmditConfig

    def matches(self, shapes: Shapes) -> bool:
        marks = ("controlnet_blocks.0.weight", "pos_embed_input.proj.weight", "context_embedder.weight")
        return all(m in shapes for m in marks) and "pos_embed.proj.weight" in shapes

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        guess = super().guess(shapes, settings)
        guess.values["hint_channels"] = shapes["pos_embed_input.proj.weight"][1]
        if "force_zeros_for_pooled_projection" in settings:
            guess.values["pooled"] = "zeros" if settings["force_zeros_for_pooled_projection"] else "told"
        else:
            guess.values["pooled"] = "told"
            guess.assumed["pooled"] = "told, as no config.json says that the pooled prompt is left out (zeros)"
        return guess

    def rearrange(self, name: str, value: Tensor, config: MmditConfig) -> Tensor:
        """Nothing is turned: no block is the last one, and there is no output."""
        return value

    def write(self, module: Mmdit, path: Path) -> None:
        """Write a folder that diffusers' `SD3ControlNetModel.from_pretrained` loads: config.json and weights."""
        config = module.config
        assert isinstance(config, ControlNetMmditConfig)
        settings = diffusers_config(config) | {
            "_class_name": "SD3ControlNetModel",
            "extra_conditioning_channels": config.hint_channels - config.in_channels,
            "force_zeros_for_pooled_projection": config.pooled == "zeros",
        }
        write_folder(path, without_empty_null(public_tensors(self, module)), header_of(self, module), settings)
