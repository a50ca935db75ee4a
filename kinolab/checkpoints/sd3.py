"""Stable Diffusion 3 and 3.5 in the original layout: `joint_blocks.N.x_block`, in whole checkpoints under the prefix
`model.diffusion_model.`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kinolab.checkpoints.base import Guess, Shapes
from kinolab.checkpoints.null_prompt import NullPromptFormat
from kinolab.checkpoints.sd3_layouts import Landmarks, check_public, guess_sizes
from kinolab.denoisers.mmdit import Mmdit, MmditConfig

NORMS = ((".q_norm.", ".ln_q."), (".k_norm.", ".ln_k."))
AT = Landmarks(
    patches="x_embedder.proj.weight",
    table="pos_embed",
    pooled="y_embedder.mlp.0.weight",
    blocks="joint_blocks.",
    norm="x_block.attn.ln_q.weight",
    dual="x_block.attn2.qkv.weight",
    hidden="x_block.mlp.fc1.weight",
)


class Sd3Format(NullPromptFormat):
    """The names are the module's own but for the norms of queries and keys."""

    name = "sd3"
    title = "SD3's MMDiT, original layout"
    module_class = Mmdit
    config_class = MmditConfig

    def matches(self, shapes: Shapes) -> bool:
        return "joint_blocks.0.x_block.attn.qkv.weight" in shapes and "context_embedder.weight" in shapes

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        return guess_sizes(shapes, AT)

    def file_names(self, name: str, config: MmditConfig) -> tuple[str, ...]:
        for ours, theirs in NORMS:
            name = name.replace(ours, theirs)
        return (name,)

    def check_writable(self, module: Mmdit) -> None:
        """Raises InputError where the original code has no such model."""
        check_public(module)
