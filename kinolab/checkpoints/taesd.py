"""TAESD in the layout of its makers: two files, encoder and decoder, whose names are the numbers of layers in a row.

Neither file says which it is; the first layer does (an encoder's is number 0; a decoder's number 0 is the clamp, which
has no weights). Read together, the names get `encoder.` and `decoder.` in front, as in a state dict of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kinolab.autoencoders.taesd import Taesd, TaesdConfig
from kinolab.checkpoints.base import Format, Guess, Shapes, header_of, public_tensors
from kinolab.checkpoints.files import TWO_FILES, write_safetensors
from kinolab.errors import InputError
from kinolab.runtime import sets

PARTS = ("encoder", "decoder")
IN_BLOCK = {
    "conv1": "conv.0",
    "conv2": "conv.2",
    "conv3": "conv.4",
    "pool.conv_in": "pool.0",
    "pool.norm": "pool.1",
    "pool.conv_out": "pool.3",
}
"""The layers of a block: the module's names and the file's."""


class TaesdFormat(Format):
    """The names are numbers of layers, counted through encoder and decoder."""

    name = "taesd"
    title = "TAESD, layout of its makers"
    module_class = Taesd
    config_class = TaesdConfig
    folder = True

    def matches(self, shapes: Shapes) -> bool:
        halves = [self.half({n.removeprefix(f"{p}."): s for n, s in shapes.items() if n.startswith(p)}) for p in PARTS]
        return halves == [f"{p}." for p in PARTS]

    def half(self, shapes: Shapes) -> str | None:
        kernels = {n for n, shape in shapes.items() if n.endswith(".weight") and len(shape) == 4}
        if "0.weight" in kernels and kernels & {"1.conv.0.weight", "4.conv.0.weight"}:
            return "encoder."
        return "decoder." if {"1.weight", "3.conv.0.weight"} <= kernels and "0.weight" not in kernels else None

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        return Guess(values_of(shapes))

    def file_names(self, name: str, config: TaesdConfig) -> tuple[str, ...]:
        return (public_name(name, config, lambda part, number: f"{part}.{number}"),)

    def check_writable(self, module: Taesd) -> None:
        refuse_videos(module)

    def write(self, module: Taesd, path: Path) -> None:
        """Write a folder of two files, as the published weights come; both or none."""
        if path.suffix:
            raise InputError(f"{path}: format {self.name} is two files in a folder; leave out {path.suffix!r}")
        tensors, header = public_tensors(self, module), header_of(self, module)
        with sets.new_set(path, TWO_FILES) as room:
            for part in PARTS:
                own = {n.removeprefix(f"{part}."): v for n, v in tensors.items() if n.startswith(part)}
                write_safetensors(room / f"taesd_{part}.safetensors", own, header)


def values_of(shapes: Shapes) -> dict[str, Any]:
    """Config fields from names and shapes with `encoder.` and `decoder.` in front and numbers behind.

    Raises:
        InputError: for an encoder and a decoder that are of different models.
    """
    encoder, decoder = (_layers(shapes, f"{part}.") for part in PARTS)
    stem, blocks, latents, channels = _sequence(encoder)
    _, decoder_blocks, pixels, latents_in = _sequence(decoder)
    if latents != latents_in:
        raise InputError(
            f"an encoder of {latents} latent channels and a decoder of {latents_in}: they are of different models; "
            "name the two files of one"
        )
    if channels != pixels:
        raise InputError(f"an encoder of {channels} pixel channels and a decoder of {pixels}: of different models")
    return {
        "latent_channels": latents,
        "global_part": any(".pool." in name for name in shapes),
        "width": blocks[-1][0],
        "encoder_blocks": [n for _, n in blocks],
        "stem": stem if len(stem) > 1 else [],
        "decoder_widths": [w for w, _ in decoder_blocks],
        "decoder_blocks": [n for _, n in decoder_blocks],
        "channels": channels,
    }


def public_name(name: str, config: TaesdConfig, numbered: Callable[[str, int], str]) -> str:
    """The public name of a module's tensor: `numbered(part, number)` of its layer, then what is inside the layer."""
    for layer, (part, number) in _numbers(config).items():
        if name.startswith(f"{layer}."):
            inside = name.removeprefix(f"{layer}.")
            for ours, theirs in IN_BLOCK.items():
                if inside.startswith(f"{ours}."):
                    inside = f"{theirs}.{inside.removeprefix(f'{ours}.')}"
            return f"{numbered(part, number)}.{inside}"
    return name


def refuse_videos(module: Taesd) -> None:
    """Raises InputError for a video autoencoder: the public classes are of images."""
    if module.config.variant != "image":
        raise InputError(
            f"TAESD's public layouts are of images, and this is a video autoencoder ({module.config.variant})"
        )


def _numbers(config: TaesdConfig) -> dict[str, tuple[str, int]]:
    """Each layer of the module that has weights -> its part, and its number in that part's sequence."""
    found: dict[str, tuple[str, int]] = {}
    number = 0
    for k in range(max(1, len(config.stem))):
        found[f"encoder.stem.{k}"] = "encoder", number
        number += 2 if config.stem else 1  # with ReLU behind it
    for i, blocks in enumerate(config.encoder_blocks):
        if i:
            found[f"encoder.levels.{i}.down"] = "encoder", number
            number += 1
        for j in range(blocks):
            found[f"encoder.levels.{i}.blocks.{j}"] = "encoder", number + j
        number += blocks
    found["encoder.conv_out"] = "encoder", number
    found["decoder.conv_in"] = "decoder", 1  # behind the clamp, and before a ReLU
    number = 3
    for i, blocks in enumerate(config.decoder_blocks):
        for j in range(blocks):
            found[f"decoder.levels.{i}.blocks.{j}"] = "decoder", number + j
        number += blocks
        if i < len(config.decoder_blocks) - 1:
            found[f"decoder.levels.{i}.up.conv"] = "decoder", number + 1  # behind the doubling
            number += 2
    found["decoder.conv_out"] = "decoder", number
    return found


def _layers(shapes: Shapes, prefix: str) -> list[dict[str, tuple[int, ...]]]:
    """The layers of a sequence that have weights, in order: of each, the names inside it and their shapes."""
    layers: dict[int, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        number, _, inside = name.removeprefix(prefix).partition(".")
        if name.startswith(prefix) and number.isdigit():
            layers.setdefault(int(number), {})[inside] = shape
    return [layers[number] for number in sorted(layers)]


def _sequence(layers: list[dict[str, tuple[int, ...]]]) -> tuple[list[int], list[tuple[int, int]], int, int]:
    """Of a sequence of layers: the widths before the first block, (width, blocks) of each resolution, and the channels
    that come out and go in. A convolution without bias leads to the next resolution."""
    before: list[int] = []
    blocks: list[tuple[int, int]] = []
    for layer in layers[:-1]:
        if "conv.0.weight" in layer:
            width, count = layer["conv.0.weight"][0], blocks[-1][1] if blocks else 0
            blocks = [*blocks[:-1], (width, count + 1)]
        elif "bias" in layer:
            before.append(layer["weight"][0])
        else:
            blocks.append((layer["weight"][0], 0))
    return before, blocks, layers[-1]["weight"][0], layers[0]["weight"][1]
