"""The 3D U-Net of Video Diffusion Models, in the layout of its most used code (lucidrains/video-diffusion-pytorch).

A training checkpoint of that code holds the network twice, raw and averaged, inside the diffusion process
(`ema.denoise_fn.`); the averaged one is read. Versions with group normalisation (before 0.5) have other names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kinolab.checkpoints.base import Format, Guess, Shapes, count, header_of, public_tensors
from kinolab.checkpoints.files import write_safetensors
from kinolab.denoisers.vdm import Vdm, VdmConfig
from kinolab.errors import InputError

BIAS = "time_rel_pos_bias.relative_attention_bias.weight"
FREQUENCIES = "fn.fn.fn.rotary_emb.freqs"
"""Behind the name of every attention over time: the same tensor each time."""
MODULES = (
    (r"input_conv\.", "init_conv."),
    (r"input_temporal_attn\.", "init_temporal_attn."),
    (r"time_mlp\.0\.", "time_mlp.1."),
    (r"time_mlp\.2\.", "time_mlp.3."),
    (r"(downs|ups)\.(\d+)\.block1\.", r"\1.\2.0."),
    (r"(downs|ups)\.(\d+)\.block2\.", r"\1.\2.1."),
    (r"(downs|ups)\.(\d+)\.spatial_attn\.", r"\1.\2.2."),
    (r"(downs|ups)\.(\d+)\.temporal_attn\.", r"\1.\2.3."),
    (r"(downs|ups)\.(\d+)\.resample\.", r"\1.\2.4."),
    (r"middle\.block(\d)\.", r"mid_block\1."),
    (r"middle\.(spatial|temporal)_attn\.", r"mid_\1_attn."),
    (r"output_block\.", "final_conv.0."),
    (r"output_conv\.", "final_conv.1."),
)
"""Beginnings of our names, and of those in the file."""
LAYERS = (
    (r"\.condition\.", ".mlp.1."),
    (r"(block\d)\.conv\.", r"\1.proj."),
    (r"(block\d)\.gamma$", r"\1.norm.gamma"),
    (r"\.shortcut\.", ".res_conv."),
)
"""Layers of a residual block."""
WHOLE = {
    "null_condition": "null_cond_emb",
    "relative_bias.table.weight": BIAS,
    "rotary_frequencies": f"init_temporal_attn.{FREQUENCIES}",
}
PUBLIC: dict[str, Any] = {
    "num_classes": 0,
    "text_dim": 0,
    "spatial_head_dim": 32,
    "vectors": {},
    "fields": {},
}
"""What the public class has no choice of."""


class VdmFormat(Format):
    """`time_rel_pos_bias` tells it from other U-Nets."""

    name = "vdm"
    title = "3D U-Net of Video Diffusion Models, layout of video-diffusion-pytorch"
    module_class = Vdm
    config_class = VdmConfig

    def matches(self, shapes: Shapes) -> bool:
        return BIAS in shapes and "downs.0.0.block1.norm.gamma" in shapes and "init_conv.weight" in shapes

    def ignores(self, name: str) -> bool:
        """The frequencies' other copies."""
        return name.endswith(FREQUENCIES)

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        dim, channels, *_, kernel = shapes["init_conv.weight"]
        heads = shapes[BIAS][1]
        levels = count(shapes, "downs.")
        out = shapes["final_conv.1.weight"][0]
        values: dict[str, Any] = {
            "dim": dim,
            "dim_mults": [shapes[f"downs.{i}.0.block1.proj.weight"][0] // dim for i in range(levels)],
            "num_heads": heads,
            "head_dim": shapes["init_temporal_attn.fn.fn.fn.to_qkv.weight"][0] // (3 * heads),
            "spatial_attention": "linear" if "downs.0.2.fn.fn.to_qkv.weight" in shapes else "none",
            "input_kernel": kernel,
            "in_channels": channels,
            "out_channels": None if out == channels else out,
            "pooled_dim": shapes["null_cond_emb"][1] if "null_cond_emb" in shapes else 0,
            "input_size": 64,
            "num_frames": 16,
        }
        assumed = {name: f"{values[name]}; the network takes any, the file says none" for name in SIZES}
        return Guess(values, assumed)

    def file_names(self, name: str, config: Any) -> tuple[str, ...]:
        """`downs.0.temporal_attn.attn.qkv.weight` -> `downs.0.3.fn.fn.fn.to_qkv.weight`, and so on."""
        if name in WHOLE:
            return (WHOLE[name],)
        public = name
        for pattern, there in (*MODULES, *LAYERS):
            public = re.sub(rf"^{pattern}" if (pattern, there) in MODULES else pattern, there, public)
        # Residual, norm, and (except for linear attention, which turns its axes itself) the turning of axes.
        linear = re.match(r"(downs|ups)\.\d+\.spatial_attn\.", name) and config.spatial_attention == "linear"
        turns = "fn.fn" if linear else "fn.fn.fn"
        public = public.replace(".attn.qkv.", f".{turns}.to_qkv.").replace(".attn.proj.", f".{turns}.to_out.")
        return (re.sub(r"\.norm\.weight$", ".fn.norm.gamma", public),)

    def write(self, module: Vdm, path: Path) -> None:
        """Write the weights with the public class's shapes: kernels over one frame, and linear layers as kernels."""
        if path.suffix != ".safetensors":
            raise InputError(f"{path}: format {self.name} is written to a .safetensors file")
        tensors = {name: _public_shape(name, value) for name, value in public_tensors(self, module).items()}
        frequencies = tensors[WHOLE["rotary_frequencies"]]
        owners = [name.removesuffix("fn.fn.fn.to_qkv.weight") for name in tensors if _over_time(name)]
        tensors |= {f"{owner}{FREQUENCIES}": frequencies.clone() for owner in owners}
        write_safetensors(path, tensors, header_of(self, module))

    def check_writable(self, module: Vdm) -> None:
        """Raises InputError where the public class has no such model."""
        differing = [f"{k}={getattr(module.config, k)}" for k, v in PUBLIC.items() if getattr(module.config, k) != v]
        if module.config.spatial_attention == "full":
            differing.append("spatial_attention=full")
        if differing:
            raise InputError(f"the public 3D U-Net has no {', '.join(differing)}: its layout can't hold this model")


SIZES = ("input_size", "num_frames")
"""What only the clips of the training say."""


def _over_time(name: str) -> bool:
    """Whether a name in the file is that of the projection of an attention over time."""
    place = re.match(r"(init_temporal_attn|mid_temporal_attn|(downs|ups)\.\d+\.3)\.fn\.fn\.fn\.to_qkv\.weight$", name)
    return place is not None


def _public_shape(name: str, value: Tensor) -> Tensor:
    """A tensor of ours in the shape that the public class has it in; the numbers are the same."""
    if name == WHOLE["null_condition"]:
        return value[None]
    if name.endswith(".fn.norm.gamma"):
        return value.view(1, -1, 1, 1, 1)  # over the channels of (B, D, T, H, W)
    if name.endswith("norm.gamma"):
        return value.view(-1, 1, 1, 1)
    if re.search(r"\.2\.fn\.fn\.to_(qkv|out)\.weight$", name):
        return value[..., None, None]
    return value[:, :, None] if value.ndim == 4 else value  # (out, in, k, k) -> (out, in, 1, k, k)
