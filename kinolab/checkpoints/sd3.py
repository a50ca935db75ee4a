"""Stable Diffusion 3 and 3.5 in the original layout: `joint_blocks.N.x_block`, in whole checkpoints under the prefix
`model.diffusion_model.`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kinolab.checkpoints.base import Format, Guess, Shapes, count, header_of, public_tensors
from kinolab.checkpoints.files import write_safetensors
from kinolab.checkpoints.sd3_layouts import (
    NULL,
    check_public,
    guess_heads,
    guess_places,
    start_guess,
    without_empty_null,
)
from kinolab.denoisers.mmdit import Mmdit, MmditConfig
from kinolab.errors import InputError

NORMS = ((".q_norm.", ".ln_q."), (".k_norm.", ".ln_k."))


class Sd3Format(Format):
    """The names are the module's own but for the norms of queries and keys."""

    name = "sd3"
    title = "SD3's MMDiT, original layout"
    module_class = Mmdit
    config_class = MmditConfig
    absent = NULL

    def matches(self, shapes: Shapes) -> bool:
        return "joint_blocks.0.x_block.attn.qkv.weight" in shapes and "context_embedder.weight" in shapes

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        width, channels, patch, _ = shapes["x_embedder.proj.weight"]
        guess, depth = start_guess(), count(shapes, "joint_blocks.")
        norm = shapes.get("joint_blocks.0.x_block.attn.ln_q.weight")
        guess.values |= {
            "hidden_size": width,
            "depth": depth,
            "in_channels": channels,
            "patch_size": patch,
            "text_dim": shapes["context_embedder.weight"][1],
            "pooled_dim": shapes["y_embedder.mlp.0.weight"][1],
            "mlp_ratio": shapes["joint_blocks.0.x_block.mlp.fc1.weight"][0] / width,
            "qk_norm": norm is not None,
            "dual_attention_layers": [
                i for i in range(depth) if f"joint_blocks.{i}.x_block.attn2.qkv.weight" in shapes
            ],
        }
        guess_heads(guess, width, norm)
        guess_places(guess, shapes.get("pos_embed"), patch)
        return guess

    def file_names(self, name: str, config: MmditConfig) -> tuple[str, ...]:
        for ours, theirs in NORMS:
            name = name.replace(ours, theirs)
        return (name,)

    def check_writable(self, module: Mmdit) -> None:
        """Raises InputError where the original code has no such model."""
        check_public(module)

    def write(self, module: Mmdit, path: Path) -> None:
        """Write a .safetensors file, without the prefix that whole checkpoints have."""
        if path.suffix != ".safetensors":
            raise InputError(f"{path}: format {self.name} is written to a .safetensors file")
        write_safetensors(path, without_empty_null(public_tensors(self, module)), header_of(self, module))
