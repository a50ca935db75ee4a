"""AnimateDiff's motion modules by themselves: the released files, and diffusers' MotionAdapter.

`MotionModules.under` puts them under any Stable Diffusion 1.x. No file tells a version: v1 has 24 positions, v2 and v3
have 32, v2 a module in the middle block too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kinolab.checkpoints.animatediff import (
    assume_motion,
    check_motion_settings,
    diffusers_motion_name,
    guess_motion,
    original_motion_name,
    with_tables,
)
from kinolab.checkpoints.base import Format, Guess, Shapes, header_of, public_tensors
from kinolab.checkpoints.files import write_folder, write_safetensors
from kinolab.denoisers.animatediff import MotionConfig, MotionModules
from kinolab.errors import InputError

MARK = "down_blocks.0.motion_modules.0."


def guess_modules(shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
    """Widths and layers of the image model that they are for, and what is theirs alone."""
    widths: list[int] = []
    guess, layers = Guess(), 0
    while True:
        norm = next((s for n, s in shapes.items() if _is_input_norm(n, f"down_blocks.{len(widths)}.")), None)
        if norm is None:
            break
        widths.append(norm[0])
    while any(name.startswith(f"down_blocks.0.motion_modules.{layers}.") for name in shapes):
        layers += 1
    image = {"block_out_channels": widths, "layers_per_block": layers, "attention_levels": []}
    guess.values = {**image, **guess_motion(shapes, settings)}
    if any(width % 32 for width in widths):
        guess.unknown["norm_groups"] = f"32 groups, the usual number, do not divide the widths {widths}"
    assume_motion(guess)
    return guess


def _is_input_norm(name: str, block: str) -> bool:
    """Whether a name is that of the norm at a module's input, whichever the layout."""
    return name.startswith(block) and name.removesuffix(".weight").split(".motion_modules.")[-1] in (
        "0.norm",
        "0.temporal_transformer.norm",
    )


class MotionModulesFormat(Format):
    """Original names, `motion_modules.N.temporal_transformer`, and nothing of an image model."""

    name = "motion_modules"
    title = "AnimateDiff's motion modules, original names"
    module_class = MotionModules
    config_class = MotionConfig

    def ignores(self, name: str) -> bool:
        return name.endswith(".pos_encoder.pe")

    def matches(self, shapes: Shapes) -> bool:
        return f"{MARK}temporal_transformer.proj_in.weight" in shapes and "conv_in.weight" not in shapes

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        return guess_modules(shapes, settings)

    def file_names(self, name: str, config: MotionConfig) -> tuple[str, ...]:
        return (original_motion_name(name),)

    def check_writable(self, module: MotionModules) -> None:
        """Raises InputError where the original code normalises otherwise."""
        if module.config.motion_norm_scope != "frame":
            raise InputError(
                "AnimateDiff's code normalises each frame of a module's input: set motion_norm_scope=frame"
            )

    def write(self, module: MotionModules, path: Path) -> None:
        """Write a .safetensors file of the modules alone, with their tables of positions as released ones have."""
        if path.suffix != ".safetensors":
            raise InputError(f"{path}: format {self.name} is written to a .safetensors file")
        tensors = public_tensors(self, module)
        more: dict[str, Tensor] = {}
        for number in range(2):
            attention = f".attention_blocks.{number}."
            ends = (f"{attention}to_q.weight", f"{attention}pos_encoder.pe")
            more |= with_tables(tensors, *ends, module.config.motion_positions)
        write_safetensors(path, tensors | more, header_of(self, module))


class MotionAdapterFormat(Format):
    """diffusers' names, and nothing of an image model."""

    name = "motion_adapter"
    title = "AnimateDiff's motion modules, layout of diffusers (MotionAdapter)"
    module_class = MotionModules
    config_class = MotionConfig
    folder = True

    def ignores(self, name: str) -> bool:
        return name.endswith(".pos_embed.pe")

    def matches(self, shapes: Shapes) -> bool:
        return f"{MARK}proj_in.weight" in shapes and "conv_in.weight" not in shapes

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        check_motion_settings(settings)
        guess = guess_modules(shapes, settings)
        guess.values |= {"norm_scope": "frame", "motion_norm_scope": "clip"}
        guess.assumed.pop("norm_scope", None)
        if "motion_norm_num_groups" in settings:
            guess.values["norm_groups"] = settings["motion_norm_num_groups"]
            guess.unknown.pop("norm_groups", None)
        return guess

    def file_names(self, name: str, config: MotionConfig) -> tuple[str, ...]:
        return (diffusers_motion_name(name),)

    def check_writable(self, module: MotionModules) -> None:
        """Raises InputError where diffusers' class normalises otherwise."""
        if module.config.motion_norm_scope != "clip":
            raise InputError("diffusers normalises a module's input over all frames: motion_norm_scope=frame is not it")

    def write(self, module: MotionModules, path: Path) -> None:
        """Write a folder that diffusers' `MotionAdapter.from_pretrained` loads: config.json and weights."""
        c, tensors = module.config, public_tensors(self, module)
        tensors |= with_tables(tensors, ".norm1.weight", ".pos_embed.pe", c.motion_positions)
        settings = {
            "_class_name": "MotionAdapter",
            "block_out_channels": list(c.block_out_channels),
            "motion_layers_per_block": c.layers_per_block,
            "motion_transformer_layers_per_block": c.motion_depth,
            "motion_transformer_layers_per_mid_block": c.motion_depth,
            "motion_num_attention_heads": c.motion_heads,
            "motion_norm_num_groups": c.norm_groups,
            "motion_max_seq_length": c.motion_positions,
            "use_motion_mid_block": c.motion_middle,
            "conv_in_channels": None,
        }
        write_folder(path, tensors, header_of(self, module), settings)
