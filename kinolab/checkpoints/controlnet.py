"""ControlNet for Stable Diffusion 1.x and 2.x by itself: the layout of diffusers, and that of the first code.

A file of the first code holds it under `control_model.`, alone or beside the whole image model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kinolab.checkpoints.base import Format, Guess, Shapes, header_of, public_tensors
from kinolab.checkpoints.files import write_folder, write_safetensors
from kinolab.checkpoints.null_prompt import NULL, without_empty_null
from kinolab.checkpoints.unet_diffusers import diffusers_name
from kinolab.checkpoints.unet_layouts import check_holds, diffusers_settings, guess_unet
from kinolab.checkpoints.unet_ldm import layers_of, ldm_name
from kinolab.denoisers.controlnet import ControlNet, ControlNetConfig
from kinolab.errors import InputError

ORDER = ("conv_in", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4", "blocks.5", "conv_out")
"""The map's convolutions, in the order in which the first code numbers them, with a SiLU between any two."""


def guess_hint(guess: Guess, shapes: Shapes, name: Any) -> None:
    """The fields of the map; `name` is what the layout calls one of its tensors."""
    widths, step = [shapes[name("conv_in.weight")][0]], 1
    while name(f"blocks.{step}.weight") in shapes:
        widths.append(shapes[name(f"blocks.{step}.weight")][0])
        step += 2
    guess.values |= {"hint_channels": shapes[name("conv_in.weight")][1], "hint_widths": widths}
    guess.values["hint_ratio"] = 2 ** (len(widths) - 1)  # every step halves in the public class


def check_public(module: ControlNet) -> None:
    """Raises InputError where the public classes have no such network."""
    config = module.config
    check_holds(config, "ControlNet's public code", {"concatenated": {}})
    if config.hint_ratio != 2 ** (len(config.hint_widths) - 1):
        raise InputError(
            f"ControlNet's public code halves a map at each of the {len(config.hint_widths) - 1} steps of hint_widths, "
            f"and this one has hint_ratio={config.hint_ratio}: its layouts can't hold it"
        )


class ControlNetDiffusersFormat(Format):
    """diffusers' ControlNetModel: the names are the module's own but for the time's embedding."""

    name = "controlnet_diffusers"
    title = "ControlNet of Stable Diffusion, layout of diffusers"
    module_class = ControlNet
    config_class = ControlNetConfig
    absent = NULL
    folder = True

    def matches(self, shapes: Shapes) -> bool:
        marks = ("controlnet_mid_block.weight", "controlnet_cond_embedding.conv_in.weight", "conv_in.weight")
        return all(m in shapes for m in marks)

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        if settings.get("controlnet_conditioning_channel_order", "rgb") != "rgb":
            raise InputError(
                "config.json: controlnet_conditioning_channel_order 'bgr' is not supported, expected 'rgb'"
            )
        guess = guess_unet(lambda name: find(shapes, diffusers_name(name)), settings)
        guess_hint(guess, shapes, lambda name: f"controlnet_cond_embedding.{name}")
        return guess

    def file_names(self, name: str, config: ControlNetConfig) -> tuple[str, ...]:
        return (diffusers_name(name),)

    def check_writable(self, module: ControlNet) -> None:
        """Raises InputError where diffusers' class has no such network."""
        check_public(module)

    def write(self, module: ControlNet, path: Path) -> None:
        """Write a folder that diffusers' `ControlNetModel.from_pretrained` loads: config.json and weights."""
        c = module.config
        settings = diffusers_settings(c, "ControlNetModel") | {
            "transformer_layers_per_block": c.transformer_depth,
            "use_linear_projection": c.linear_projection,
            "upcast_attention": c.upcast_attention,
            "conditioning_channels": c.hint_channels,
            "conditioning_embedding_out_channels": list(c.hint_widths),
        }
        for key in ("sample_size", "out_channels", "up_block_types"):
            settings.pop(key)
        write_folder(path, without_empty_null(public_tensors(self, module)), header_of(self, module), settings)


class ControlNetLdmFormat(Format):
    """Names that count through all blocks, as latent-diffusion's; in a file they stand behind `control_model.`."""

    name = "controlnet"
    title = "ControlNet of Stable Diffusion, layout of its first code"
    module_class = ControlNet
    config_class = ControlNetConfig
    absent = NULL

    def matches(self, shapes: Shapes) -> bool:
        return all(
            m in shapes for m in ("input_hint_block.0.weight", "zero_convs.0.0.weight", "middle_block_out.0.weight")
        )

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        layers, _ = layers_of(shapes)
        guess = guess_unet(lambda name: find(shapes, first_name(name, layers)), settings)
        guess_hint(guess, shapes, hint_name)
        return guess

    def file_names(self, name: str, config: ControlNetConfig) -> tuple[str, ...]:
        return (first_name(name, config.layers_per_block),)

    def check_writable(self, module: ControlNet) -> None:
        """Raises InputError where the first code has no such network."""
        check_public(module)
        if len(module.config.hint_widths) != 4:
            raise InputError("ControlNet's first code reads a map by convolutions of four widths; use --to diffusers")

    def write(self, module: ControlNet, path: Path) -> None:
        """Write a .safetensors file with the names of the released files."""
        if path.suffix != ".safetensors":
            raise InputError(f"{path}: format {self.name} is written to a .safetensors file")
        tensors = without_empty_null(public_tensors(self, module))
        write_safetensors(path, {f"control_model.{name}": v for name, v in tensors.items()}, header_of(self, module))


def find(shapes: Shapes, name: str) -> tuple[int, ...] | None:
    """A tensor's shape; the output that a U-Net has and its copy has not is that of the latents."""
    if name in ("conv_out.weight", "out.2.weight"):
        first = shapes.get("conv_in.weight") or shapes["input_blocks.0.0.weight"]
        return (first[1], *first[:1])
    return shapes.get(name)


def hint_name(name: str) -> str:
    """What the first code calls a tensor of the map's convolutions."""
    layer, _, kind = name.rpartition(".")
    return f"input_hint_block.{2 * ORDER.index(layer)}.{kind}" if layer in ORDER else ""


def first_name(name: str, layers: int) -> str:
    """What the first code calls a tensor of ours; `layers` are the residual blocks per resolution."""
    if name.startswith("controlnet_cond_embedding."):
        return hint_name(name.removeprefix("controlnet_cond_embedding."))
    if name.startswith("controlnet_down_blocks."):
        _, number, kind = name.split(".")
        return f"zero_convs.{number}.0.{kind}"
    if name.startswith("controlnet_mid_block."):
        return name.replace("controlnet_mid_block.", "middle_block_out.0.")
    return ldm_name(name, layers, ())
