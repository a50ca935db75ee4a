"""AnimateDiff: an image U-Net with motion modules in one file, in the original names or as diffusers' UNetMotionModel.

The released files hold motion modules alone (`kinolab.checkpoints.motion`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kinolab.checkpoints.base import Format, Guess, Shapes, header_of, public_tensors
from kinolab.checkpoints.files import write_folder
from kinolab.checkpoints.null_prompt import NULL, NullPromptFormat, without_empty_null
from kinolab.checkpoints.unet_diffusers import diffusers_name
from kinolab.checkpoints.unet_layouts import check_holds, diffusers_settings, guess_unet
from kinolab.denoisers.animatediff import AnimateDiff, AnimateDiffConfig
from kinolab.errors import InputError
from kinolab.layers.over_time import interleaved_sincos

SLOT, MODULES = ".after_attention.", ".motion_modules."
INNER = (
    (re.compile(r"\.attn([12])\."), lambda found: f".attention_blocks.{int(found[1]) - 1}."),
    (re.compile(r"\.norm([12])\."), lambda found: f".norms.{int(found[1]) - 1}."),
    (re.compile(r"\.norm3\."), lambda found: ".ff_norm."),
)
"""diffusers' names inside a block of a motion module -> the original ones."""
OUTER = re.compile(r"(\.motion_modules\.\d+)\.")
BLOCK = re.compile(r"motion_modules.*transformer_blocks\.(\d+)\.")
HALVES = {"motion_down": "down_blocks", "motion_up": "up_blocks"}
PUBLISHED_HEADS = 8


def diffusers_motion_name(name: str) -> str:
    """What diffusers calls a tensor of ours."""
    return diffusers_name(name.replace(SLOT, MODULES))


def original_motion_name(name: str) -> str:
    """What AnimateDiff's code calls a tensor of ours."""
    if SLOT in name:
        for pattern, theirs in INNER:
            name = pattern.sub(theirs, name)
    return OUTER.sub(r"\1.temporal_transformer.", diffusers_motion_name(name))


def levels_of(shapes: Shapes, half: str) -> list[int] | None:
    """The resolutions, 0 the finest, that have motion modules in one half of the network; none = all."""
    found = {int(name.split(".")[1]) for name in shapes if name.startswith(half) and MODULES in name}
    count = 1 + max((int(name.split(".")[1]) for name in shapes if name.startswith(half)), default=0)
    return None if len(found) == count else sorted(i if half == "down_blocks" else count - 1 - i for i in found)


def guess_motion(shapes: Shapes, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the motion modules that shapes and settings tell, whichever the names."""
    tables = [shape for name, shape in shapes.items() if name.endswith((".pos_encoder.pe", ".pos_embed.pe"))]
    depth = [int(found[1]) for name in shapes if (found := BLOCK.search(name))]
    values: dict[str, Any] = {
        "motion_middle": any(name.startswith("mid_block.motion_modules.") for name in shapes),
        "motion_depth": 1 + max(depth, default=0),
        **{field: levels for field, half in HALVES.items() if (levels := levels_of(shapes, half)) is not None},
    }
    if tables:
        values["motion_positions"] = tables[0][1]
    elif "motion_max_seq_length" in settings:
        values["motion_positions"] = settings["motion_max_seq_length"]
    if "motion_num_attention_heads" in settings:
        values["motion_heads"] = settings["motion_num_attention_heads"]
    return values


def assume_motion(guess: Guess) -> None:
    """Fill in what no tensor of a motion module tells, as the released ones have it."""
    assumed = {"motion_heads": PUBLISHED_HEADS, "motion_positions": 32 if guess.values["motion_middle"] else 24}
    for field, value in assumed.items():
        if field not in guess.values:
            guess.values[field] = value
            guess.assumed[field] = f"{value}, as in the released motion modules"
    if "norm_scope" not in guess.values:
        v1 = guess.values["motion_positions"] == 24
        guess.values["norm_scope"] = "clip" if v1 else "frame"
        guess.assumed["norm_scope"] = "clip, as v1's, with 24 positions" if v1 else "frame, as v2's and v3's"
    guess.values["num_frames"] = min(16, guess.values["motion_positions"])


def with_tables(tensors: Mapping[str, Tensor], beside: str, end: str, positions: int) -> dict[str, Tensor]:
    """The fixed tables of positions (1, positions, D) that public files hold: one `end` for each name ending `beside`,
    whose tensor's last dimension is D."""
    found = {name: value for name, value in tensors.items() if MODULES in name and name.endswith(beside)}
    return {
        name.removesuffix(beside) + end: interleaved_sincos(positions, value.shape[-1])[None]
        for name, value in found.items()
    }


class AnimateDiffFormat(NullPromptFormat):
    """diffusers' names of the image model, and `motion_modules.N.temporal_transformer`."""

    name = "animatediff"
    title = "AnimateDiff's U-Net with motion modules, original names"
    module_class = AnimateDiff
    config_class = AnimateDiffConfig
    table = ".pos_encoder.pe"
    """The end of the names of the fixed table of positions, which the module makes itself."""

    def ignores(self, name: str) -> bool:
        return name.endswith(self.table)

    def matches(self, shapes: Shapes) -> bool:
        module = "down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight"
        return module in shapes and "conv_in.weight" in shapes

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        guess = guess_unet(lambda name: shapes.get(original_motion_name(name)), settings)
        guess.values |= guess_motion(shapes, settings)
        assume_motion(guess)
        return guess

    def file_names(self, name: str, config: AnimateDiffConfig) -> tuple[str, ...]:
        return (original_motion_name(name),)

    def check_writable(self, module: AnimateDiff) -> None:
        """Raises InputError where the original code has no such model."""
        same = {"norm_scope": module.config.norm_scope, "motion_norm_scope": "frame"}
        check_holds(module.config, "AnimateDiff's code", same)


class AnimateDiffDiffusersFormat(Format):
    """diffusers' names throughout."""

    name = "animatediff_diffusers"
    title = "AnimateDiff's U-Net with motion modules, layout of diffusers"
    module_class = AnimateDiff
    config_class = AnimateDiffConfig
    absent = NULL
    folder = True
    table = ".pos_embed.pe"
    """The end of the names of the fixed table of positions, which the module makes itself."""

    def ignores(self, name: str) -> bool:
        return name.endswith(self.table)

    def matches(self, shapes: Shapes) -> bool:
        return "down_blocks.0.motion_modules.0.proj_in.weight" in shapes and "conv_in.weight" in shapes

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        check_motion_settings(settings)
        heads = ("num_attention_heads", "num_heads")
        guess = guess_unet(lambda name: shapes.get(diffusers_motion_name(name)), settings, heads)
        guess.values |= {"norm_scope": "frame", "motion_norm_scope": "clip", **guess_motion(shapes, settings)}
        assume_motion(guess)
        return guess

    def file_names(self, name: str, config: AnimateDiffConfig) -> tuple[str, ...]:
        return (diffusers_motion_name(name),)

    def check_writable(self, module: AnimateDiff) -> None:
        """Raises InputError where diffusers' class has no such model."""
        plain = {"motion_norm_scope": "clip", "upcast_attention": False}
        check_holds(module.config, "diffusers' class of this U-Net", plain)

    def write(self, module: AnimateDiff, path: Path) -> None:
        """Write a folder that diffusers' `UNetMotionModel.from_pretrained` loads: config.json and weights."""
        c = module.config
        settings = diffusers_settings(c, "UNetMotionModel", "Motion")
        settings |= {
            "num_attention_heads": settings.pop("attention_head_dim"),
            "transformer_layers_per_block": c.transformer_depth,
            "use_linear_projection": c.linear_projection,
            "motion_num_attention_heads": c.motion_heads,
            "motion_max_seq_length": c.motion_positions,
            "use_motion_mid_block": c.motion_middle,
            "temporal_transformer_layers_per_block": c.motion_depth,
            "temporal_transformer_layers_per_mid_block": c.motion_depth,
        }
        tensors = without_empty_null(public_tensors(self, module))
        tensors |= with_tables(tensors, ".norm1.weight", ".pos_embed.pe", c.motion_positions)
        write_folder(path, tensors, header_of(self, module), settings)


def check_motion_settings(settings: Mapping[str, Any]) -> None:
    """Raises InputError for motion modules whose heads differ by level, which have no counterpart here."""
    for key in ("motion_num_attention_heads", "temporal_transformer_layers_per_block"):
        value = settings.get(key, 1)
        if not isinstance(value, int):
            raise InputError(f"config.json: {key} {value!r} is not supported, expected one number for all")
