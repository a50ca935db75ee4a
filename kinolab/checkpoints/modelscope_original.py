"""ModelScope's text-to-video U-Net in the layout of its first code (text2video_pytorch_model.pth).

The names are those of latent-diffusion's U-Net with what stands over time among them: the four convolutions in every
residual block (`temopral_conv`, spelt so), the transformer as one more member of each block, behind that over places,
and a downsampling that is a block by itself. Projections into and out of the transformers over time are convolutions
of kernel 1 there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kinolab.checkpoints.base import Guess, Shapes
from kinolab.checkpoints.null_prompt import NullPromptFormat
from kinolab.checkpoints.unet_layouts import check_holds, guess_unet
from kinolab.checkpoints.unet_ldm import ldm_name
from kinolab.denoisers.modelscope import INPUT_HEADS, ModelScope, ModelScopeConfig
from kinolab.errors import InputError

CONVOLUTION = re.compile(r"(.+)\.after_resnet\.(\d+)\.convs\.(\d)\.(norm|conv)\.(.+)")
TRANSFORMER = re.compile(r"(.+)\.after_attention\.(\d+)\.(.+)")
LAST_RESNET = "middle_block.2."
"""The second residual block in the middle of the image model; here a transformer over time stands before it."""
PROJECTION = re.compile(r"(input_blocks\.0\.1|(input|output)_blocks\.\d+\.2|middle_block\.2)\.proj_(in|out)\.weight")
"""Weights of convolutions over one dimension."""


def original_name(name: str, layers: int, attends: tuple[bool, ...]) -> str:
    """What the first code calls a tensor of ours; arguments as of `ldm_name`."""

    def image(own: str) -> str:
        """The place of a module of the image model, with a dot behind it."""
        found = ldm_name(f"{own}.norm1.weight" if "resnets" in own else f"{own}.norm.weight", layers, attends)
        found = found.removesuffix("in_layers.0.weight").removesuffix("norm.weight")
        return "middle_block.3." if found == LAST_RESNET else found

    if name.startswith("at_input."):
        return name.replace("at_input.", "input_blocks.0.1.")
    found = CONVOLUTION.fullmatch(name)
    if found is not None:
        block, index, number, what, kind = found.groups()
        # From the second on a dropout stands between SiLU and convolution.
        place = 0 if what == "norm" else 2 if number == "0" else 3
        return f"{image(f'{block}.resnets.{index}')}temopral_conv.conv{int(number) + 1}.{place}.{kind}"
    found = TRANSFORMER.fullmatch(name)
    if found is not None:
        block, index, rest = found.groups()
        return f"{image(f'{block}.attentions.{index}').removesuffix('1.')}2.{rest}"
    theirs = ldm_name(name, layers, attends)
    if ".downsamplers." in name:
        return theirs.replace(".0.op.", ".op.")
    if ".upsamplers." in name:
        return theirs.replace(".2.conv.", ".3.conv.")
    return theirs.replace(LAST_RESNET, "middle_block.3.")


def layers_of(shapes: Shapes) -> tuple[int, tuple[bool, ...]]:
    """Residual blocks per resolution, and which resolutions have transformers, coarsest first."""
    halving = [n for n in range(100) if f"input_blocks.{n}.op.weight" in shapes]
    blocks = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("input_blocks."))
    layers = (halving[0] if halving else blocks) - 1
    attends = (f"output_blocks.{u * (layers + 1)}.2.proj_in.weight" in shapes for u in range(len(halving) + 1))
    return layers, tuple(attends)


class ModelScopeOriginalFormat(NullPromptFormat):
    """Names that count through all blocks."""

    name = "modelscope_original"
    title = "ModelScope's video U-Net, layout of its first code"
    module_class = ModelScope
    config_class = ModelScopeConfig

    def matches(self, shapes: Shapes) -> bool:
        marks = ("input_blocks.0.1.proj_in.weight", "middle_block.0.temopral_conv.conv1.2.weight", "out.2.weight")
        return all(name in shapes for name in marks)

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        layers, attends = layers_of(shapes)
        heads = ("attention_head_dim", "head_size")
        found = guess_unet(lambda name: shapes.get(original_name(name, layers, attends)), settings, heads)
        if "head_size" in found.unknown:  # the transformer at the input has a known number of them
            found.values["head_size"] = shapes["input_blocks.0.1.proj_in.weight"][0] // INPUT_HEADS
            del found.unknown["head_size"]
        found.values["input_size"] = 32
        found.assumed["input_size"] = "32, as the model was released with; the network takes any size"
        return found

    def file_names(self, name: str, config: ModelScopeConfig) -> tuple[str, ...]:
        levels = reversed(range(len(config.block_out_channels)))
        return (original_name(name, config.layers_per_block, tuple(i in config.attention_levels for i in levels)),)

    def check_writable(self, module: ModelScope) -> None:
        """Raises InputError where the first code has no such model."""
        plain = {"linear_projection": True, "transformer_depth": 1, "upcast_attention": False, "norm_groups": 32}
        check_holds(module.config, "ModelScope's first code", plain)
        sizes = {module.config.heads(i)[1] for i in range(len(module.config.block_out_channels))}
        if len(sizes) > 1:
            raise InputError(f"ModelScope's first code has heads of one size, got {sorted(sizes)}")

    def stored(self, name: str, value: Tensor) -> Tensor:
        """A projection's weight (out, in) as that of a convolution (out, in, 1)."""
        return value[..., None] if PROJECTION.fullmatch(name) else value
