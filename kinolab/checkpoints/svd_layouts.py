"""What the two layouts of Stable Video Diffusion's U-Net share: how a config is guessed, and what they can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kinolab.checkpoints.base import Guess
from kinolab.checkpoints.unet_layouts import Find, check_holds, guess_unet
from kinolab.denoisers.svd import IMAGE, NUMBERS, Svd
from kinolab.errors import InputError

PUBLISHED_SIDE = 96
"""`sample_size` of the published models, whose pipeline makes 576 x 1024 pixels."""


def guess_svd(find: Find, settings: Mapping[str, Any]) -> Guess:
    """The fields of `SvdConfig` from shapes and settings.

    Raises:
        InputError: for a setting without a counterpart.
    """
    heads = settings.get("num_attention_heads")
    guess = guess_unet(find, {**settings, **({} if heads is None else {"attention_head_dim": heads})})
    if "num_heads" in guess.values:  # SVD's default is a size
        guess.values["head_size"] = None
    elif guess.unknown.pop("num_heads", None) is not None:
        guess.unknown["head_size"] = "the file does not tell how wide a head is; 64 in the published models"
    read, made = find("conv_in.weight"), find("conv_out.weight")
    beside = 0 if read is None or made is None else read[1] - made[0]
    guess.unknown.pop("concatenated", None)
    guess.values |= {
        "concatenated": {IMAGE: beside} if beside > 0 else {},
        "context": "image" if beside > 0 else "text",
    }
    joined = find("add_embedding.0.weight")
    width = 0 if joined is None else joined[1]
    if width % len(NUMBERS):
        guess.unknown["numbers"] = f"the numbers told of a clip have {width} features, which are not those of 3 numbers"
    elif width:
        guess.values |= {"numbers": NUMBERS, "number_features": width // len(NUMBERS)}
    else:
        guess.values["numbers"] = ()
    if guess.values["input_size"] == PUBLISHED_SIDE:
        guess.values["input_size"] = (72, 128)
    return guess


def check_svd(module: Svd, layout: str) -> None:
    """Raises InputError where a public layout has no counterpart of a field."""
    config = module.config
    needed: dict[str, Any] = {"linear_projection": True, "transformer_depth": 1, "upcast_attention": False}
    check_holds(config, layout, {**needed, "learned_variance": False})
    if config.numbers != NUMBERS:
        raise InputError(f"{layout} is told {', '.join(NUMBERS)}: it can't hold numbers {', '.join(config.numbers)}")
    if config.null == "learned":
        raise InputError(f"{layout} has no learned null condition (null=learned): it can't hold this model")
