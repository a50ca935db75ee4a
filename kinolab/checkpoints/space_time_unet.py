"""The U-Net of pseudo-3D layers in the layout of lucidrains/make-a-video-pytorch (`SpaceTimeUnet`).

No trained weights are public; whoever trained that class can go on here, and back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kinolab.checkpoints.base import Format, Guess, Shapes, count, header_of, public_tensors
from kinolab.checkpoints.files import write_safetensors
from kinolab.denoisers.space_time_unet import SpaceTimeUnet, SpaceTimeUnetConfig
from kinolab.errors import InputError

PLACES = (
    (r"^time_linear\.", "to_timestep_cond.1."),
    (r"^(downs|ups)\.(\d+)\.first\.", r"\1.\2.0."),
    (r"^(downs|ups)\.(\d+)\.blocks\.", r"\1.\2.1."),
    (r"^(downs|ups)\.(\d+)\.attn\.", r"\1.\2.2."),
    (r"^(downs)\.(\d+)\.resample\.(space|time)\.", r"\1.\2.3.down_\3.1."),
    (r"^(ups)\.(\d+)\.resample\.(space|time)\.", r"\1.\2.3.up_\3.0."),
)
"""Where modules stand, and where in the file. Its `ups` are in the order of `downs` (`_mirrored`)."""
LAYERS = (
    (r"\.timestep\.", ".timestep_mlp.1."),
    (r"\.shortcut\.", ".res_conv."),
    (r"(spatial|temporal)_attn\.bias\.net\.([02])\.", r"\1_rel_pos_bias.net.\2.0."),
    (r"(spatial|temporal)_attn\.bias\.net\.4\.", r"\1_rel_pos_bias.net.2."),
    (r"rel_pos_bias\.net\.2\.0\.", "rel_pos_bias.net.1.0."),
    (r"ff\.proj_in\.", "ff.proj_in.0."),
    (r"ff\.norm\.", "ff.proj_out.0."),
    (r"ff\.proj_out\.(?!0\.)", "ff.proj_out.1."),
)
"""Layers inside them; of the network of a bias, the public code counts a linear layer with its SiLU as one."""
PUBLIC: dict[str, Any] = {"num_classes": 0, "text_dim": 0, "vectors": {}, "fields": {}}
"""What the public class has no choice of."""
HEADS = "temporal_rel_pos_bias.net.2.weight"


class SpaceTimeUnetFormat(Format):
    """`temporal_attn` beside `spatial_attn` in the middle tells it from other U-Nets."""

    name = "space_time_unet"
    title = "U-Net of pseudo-3D layers, layout of make-a-video-pytorch"
    module_class = SpaceTimeUnet
    config_class = SpaceTimeUnetConfig

    def matches(self, shapes: Shapes) -> bool:
        return "mid_attn.temporal_attn.to_kv.weight" in shapes and "conv_in.spatial_conv.weight" in shapes

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        dim, channels, *_ = shapes["conv_in.spatial_conv.weight"]
        levels = range(count(shapes, "downs."))
        inner = shapes["mid_attn.temporal_attn.to_q.weight"][0]
        biased = f"mid_attn.{HEADS}" in shapes
        heads = shapes[f"mid_attn.{HEADS}"][0] if biased else max(inner // 64, 1)
        values: dict[str, Any] = {
            "dim": dim,
            "dim_mults": [shapes[f"downs.{i}.0.block1.norm.gamma"][0] // dim for i in levels],
            "attention": [f"downs.{i}.2.temporal_attn.to_q.weight" in shapes for i in levels],
            "halves_time": [f"downs.{i}.3.down_time.1.weight" in shapes for i in levels],
            "depths": [count(shapes, f"downs.{i}.1.") for i in levels],
            "num_heads": heads,
            "head_dim": inner // heads,
            "position_bias": biased,
            "in_channels": channels,
            "input_size": 64,
            "num_frames": 16,
        }
        assumed = {name: f"{values[name]}; the network takes any, the file says none" for name in SIZES}
        if not biased:
            assumed["num_heads"] = f"{heads}; the file says none without a bias by distance"
        return Guess(values, assumed)

    def file_names(self, name: str, config: Any) -> tuple[str, ...]:
        """`downs.0.first.block1.project.spatial_conv.weight` -> `downs.0.0.block1. ...`, and so on."""
        public = _mirrored(name, len(config.dim_mults))
        for pattern, there in (*PLACES, *LAYERS):
            public = re.sub(pattern, there, public)
        return (public,)

    def write(self, module: SpaceTimeUnet, path: Path) -> None:
        """Write the weights with the public class's shapes: layers of kernel 1 as convolutions."""
        if path.suffix != ".safetensors":
            raise InputError(f"{path}: format {self.name} is written to a .safetensors file")
        tensors = {name: _public_shape(name, value) for name, value in public_tensors(self, module).items()}
        write_safetensors(path, tensors, header_of(self, module))

    def check_writable(self, module: SpaceTimeUnet) -> None:
        """Raises InputError where the public class has no such model."""
        differing = [f"{k}={getattr(module.config, k)}" for k, v in PUBLIC.items() if getattr(module.config, k) != v]
        if differing:
            raise InputError(
                f"the public SpaceTimeUnet has no {', '.join(differing)}: its layout can't hold this model"
            )


SIZES = ("input_size", "num_frames")
"""What only the clips of the training say."""


def _mirrored(name: str, levels: int) -> str:
    """The name with the number that a level of the way up has in the file, counted from the finest."""
    return re.sub(r"^ups\.(\d+)\.", lambda found: f"ups.{levels - 1 - int(found[1])}.", name)


def _public_shape(name: str, value: Tensor) -> Tensor:
    """A tensor of ours in the shape that the public class has it in; the numbers are the same."""
    if re.search(r"\.(down|up)_time\.\d\.weight$", name):
        return value[..., None, None]  # (out, in, 1) -> (out, in, 1, 1, 1)
    return value[..., None, None, None] if re.search(r"ff\.proj_(in\.0|out\.1)\.weight$", name) else value
