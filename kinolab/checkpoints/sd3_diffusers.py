"""Stable Diffusion 3 and 3.5 in the layout of diffusers (SD3Transformer2DModel): a folder or its weights alone.

diffusers keeps queries, keys and values apart, and where it scales and shifts without a gate it stores the scale first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinolab.checkpoints.base import Format, Guess, Shapes, header_of, public_tensors
from kinolab.checkpoints.files import write_folder
from kinolab.checkpoints.null_prompt import NULL, without_empty_null
from kinolab.checkpoints.sd3_layouts import Landmarks, check_public, guess_sizes
from kinolab.denoisers.mmdit import Mmdit, MmditConfig
from kinolab.errors import InputError

OUTER = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "context_embedder": "context_embedder",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
"""Module -> the public one, outside the blocks."""
INNER: dict[str, tuple[str, ...]] = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn.proj": ("attn.to_out.0",),
    "x_block.attn.q_norm": ("attn.norm_q",),
    "x_block.attn.k_norm": ("attn.norm_k",),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "x_block.attn2.proj": ("attn2.to_out.0",),
    "x_block.attn2.q_norm": ("attn2.norm_q",),
    "x_block.attn2.k_norm": ("attn2.norm_k",),
    "x_block.mlp.fc1": ("ff.net.0.proj",),
    "x_block.mlp.fc2": ("ff.net.2",),
    "x_block.adaLN_modulation.1": ("norm1.linear",),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "context_block.attn.proj": ("attn.to_add_out",),
    "context_block.attn.q_norm": ("attn.norm_added_q",),
    "context_block.attn.k_norm": ("attn.norm_added_k",),
    "context_block.mlp.fc1": ("ff_context.net.0.proj",),
    "context_block.mlp.fc2": ("ff_context.net.2",),
    "context_block.adaLN_modulation.1": ("norm1_context.linear",),
}
"""Module -> the public ones whose tensors it joins, inside a block."""
AT = Landmarks(
    patches="pos_embed.proj.weight",
    table="pos_embed.pos_embed",
    pooled="time_text_embed.text_embedder.linear_1.weight",
    blocks="transformer_blocks.",
    norm="attn.norm_q.weight",
    dual="attn2.to_q.weight",
    hidden="ff.net.0.proj.weight",
)


class Sd3DiffusersFormat(Format):
    """Blocks named `transformer_blocks`, with projections of the text named `add_q_proj` and the like."""

    name = "sd3_diffusers"
    title = "SD3's MMDiT, layout of diffusers"
    module_class = Mmdit
    config_class = MmditConfig
    folder = True
    absent = NULL

    def matches(self, shapes: Shapes) -> bool:
        marks = ("transformer_blocks.0.attn.add_q_proj.weight", "transformer_blocks.0.norm1_context.linear.weight")
        return all(m in shapes for m in marks) and "pos_embed.proj.weight" in shapes

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        width, channels, *_ = shapes[AT.patches]
        _check_settings(settings, width, channels)
        guess = guess_sizes(shapes, AT)
        for field, key in (
            ("num_heads", "num_attention_heads"),
            ("input_size", "sample_size"),
            ("pos_embed_max_size", "pos_embed_max_size"),
        ):
            if key in settings:
                guess.values[field] = settings[key]
                guess.assumed.pop(field, None)
                guess.unknown.pop(field, None)
        return guess

    def file_names(self, name: str, config: MmditConfig) -> tuple[str, ...]:
        if name == "pos_embed":
            return ("pos_embed.pos_embed",)
        module, _, kind = name.rpartition(".")
        if module in OUTER:
            return (f"{OUTER[module]}.{kind}",)
        return self.parts(name, config)[:1] or (name,)

    def parts(self, name: str, config: MmditConfig) -> tuple[str, ...]:
        module, _, kind = name.rpartition(".")
        if not module.startswith("joint_blocks."):
            return ()
        _, index, inner = module.split(".", 2)
        return tuple(f"transformer_blocks.{index}.{part}.{kind}" for part in INNER.get(inner, ()))

    def rearrange(self, name: str, value: Tensor, config: MmditConfig) -> Tensor:
        last = f"joint_blocks.{config.depth - 1}.context_block.adaLN_modulation."
        if name.startswith(("final_layer.adaLN_modulation.", last)):
            return torch.cat(value.chunk(2)[::-1])  # rows (2 D,): here shift, scale; there scale, shift
        return value

    def check_writable(self, module: Mmdit) -> None:
        """Raises InputError where diffusers' class has no such model."""
        check_public(module)

    def write(self, module: Mmdit, path: Path) -> None:
        """Write a folder that diffusers' `SD3Transformer2DModel.from_pretrained` loads: config.json and weights."""
        tensors = without_empty_null(public_tensors(self, module))
        write_folder(path, tensors, header_of(self, module), diffusers_config(module.config))


def _check_settings(settings: Mapping[str, Any], width: int, channels: int) -> None:
    """Raises InputError for arguments of diffusers' class that have no counterpart here."""
    expected = {
        "qk_norm": (None, "rms_norm"),
        "out_channels": (None, channels),
        "caption_projection_dim": (width,),
    }
    for key, known in expected.items():
        if settings.get(key, known[0]) not in known:
            raise InputError(f"config.json: {key} {settings[key]!r} is not supported, expected {known[-1]!r}")


def diffusers_config(config: MmditConfig) -> dict[str, Any]:
    """The arguments of diffusers' SD3Transformer2DModel for a config that it can hold."""
    return {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": config.latent_size[0],
        "patch_size": config.patch_size,
        "in_channels": config.in_channels,
        "out_channels": config.in_channels,
        "num_layers": config.depth,
        "attention_head_dim": config.hidden_size // config.num_heads,
        "num_attention_heads": config.num_heads,
        "joint_attention_dim": config.text_dim,
        "caption_projection_dim": config.hidden_size,
        "pooled_projection_dim": config.pooled_dim,
        "pos_embed_max_size": config.pos_embed_max_size,
        "dual_attention_layers": list(config.dual_attention_layers),
        "qk_norm": "rms_norm" if config.qk_norm else None,
    }
