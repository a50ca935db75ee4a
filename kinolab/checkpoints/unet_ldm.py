"""The U-Net of Stable Diffusion 1.x and 2.x in the layout of its first code (latent-diffusion).

In a whole checkpoint such as v1-5-pruned.safetensors it is under the prefix `model.diffusion_model.`. Its blocks are
numbered through: `input_blocks.N` and `output_blocks.N`, with the residual block at .0 and the transformer at .1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kinolab.checkpoints.base import Guess, Shapes
from kinolab.checkpoints.null_prompt import NullPromptFormat
from kinolab.checkpoints.unet_layouts import check_holds, guess_unet
from kinolab.denoisers.unet import Unet, UnetConfig, UnetFields
from kinolab.errors import InputError

OUTER = {
    "time_embedding.mlp.0": "time_embed.0",
    "time_embedding.mlp.2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
BLOCK = re.compile(r"(down_blocks|up_blocks)\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def ldm_name(name: str, layers: int, attends: tuple[bool, ...]) -> str:
    """What latent-diffusion calls a tensor of ours.

    Args:
        layers: residual blocks per resolution on the way down.
        attends: of each block on the way up, coarsest first, whether it has transformers.
    """
    module, _, kind = name.rpartition(".")
    if module in OUTER:
        return f"{OUTER[module]}.{kind}"
    middle = MIDDLE.fullmatch(name)
    if middle is not None:
        what, index, rest = middle.groups()
        number = 1 if what == "attentions" else 2 * int(index)
        return f"middle_block.{number}.{_inside(what, rest)}"
    found = BLOCK.fullmatch(name)
    if found is None:
        return name
    half, block, what, index, rest = found.groups()
    if half == "down_blocks":
        number = 1 + int(block) * (layers + 1) + (layers if what == "downsamplers" else int(index))
        place = 1 if what == "attentions" else 0
        inner = rest.replace("conv.", "op.") if what == "downsamplers" else _inside(what, rest)
        return f"input_blocks.{number}.{place}.{inner}"
    last = what == "upsamplers"
    number = int(block) * (layers + 1) + (layers if last else int(index))
    place = 1 + attends[int(block)] if last else 1 if what == "attentions" else 0
    return f"output_blocks.{number}.{place}.{rest if last else _inside(what, rest)}"


def _inside(what: str, rest: str) -> str:
    """The name inside a residual block; a transformer's are the same, and so are those of what stands in a slot."""
    module, _, kind = rest.rpartition(".")
    if what == "attentions" or module not in RESNET:
        return rest
    return f"{RESNET[module]}.{kind}"


def layers_of(shapes: Shapes) -> tuple[int, tuple[bool, ...]]:
    """Residual blocks per resolution, and which resolutions have transformers, coarsest first."""
    halving = [n for n in range(100) if f"input_blocks.{n}.0.op.weight" in shapes]
    blocks = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("input_blocks."))
    layers = (halving[0] if halving else blocks) - 1
    levels = len(halving) + 1
    attends = (f"output_blocks.{u * (layers + 1)}.1.proj_in.weight" in shapes for u in range(levels))
    return layers, tuple(attends)


class UnetLdmFormat(NullPromptFormat):
    """Names that count through all blocks."""

    name = "unet_ldm"
    title = "Stable Diffusion's U-Net, layout of latent-diffusion"
    module_class = Unet
    config_class = UnetConfig

    def matches(self, shapes: Shapes) -> bool:
        marks = ("input_blocks.0.0.weight", "middle_block.1.proj_in.weight", "time_embed.0.weight", "out.2.weight")
        over_time = any(word in n for n in shapes for word in (".time_stack.", ".time_mixer.", ".temopral_conv."))
        return all(m in shapes for m in marks) and not over_time

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        layers, attends = layers_of(shapes)
        return guess_unet(lambda name: shapes.get(ldm_name(name, layers, attends)), settings)

    def file_names(self, name: str, config: UnetFields) -> tuple[str, ...]:
        levels = reversed(range(len(config.block_out_channels)))
        return (ldm_name(name, config.layers_per_block, tuple(i in config.attention_levels for i in levels)),)

    def check_writable(self, module: Unet) -> None:
        """Raises InputError where the original code has no such model."""
        check_holds(module.config, "latent-diffusion's code")
        if type(module) is not Unet:
            raise InputError(f"format {self.name} holds an image U-Net, got a {type(module).__name__}")
