"""One-shot tuning of an image denoiser (Wu et al. 2023, Tune-A-Video, section 4.2): what it becomes, what is trained.

The paper's idea for Stable Diffusion's U-Net holds for any image model whose frames can be told to read others: their
self-attention reads the first frame and the one before, the queries of the attention and the layers over time are
trained, and keys and values stay, so that what the image model knows is asked for in another way and not changed.

- U-Net: `tuneavideo`, the paper's.
- MMDiT: `attention: 2d+3d`, whose attention over all tokens of the clip begins as nothing. The queries of the image's
  half read the prompt too, so that they stand for both of the U-Net's.
- DiT: an interleaved Latte, whose blocks over time begin as nothing.
- A model that has layers over time already is tuned as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import nn

from kinolab.config import load_config
from kinolab.denoisers.base import BaseDenoiserConfig, Denoiser
from kinolab.denoisers.dit import DiTConfig
from kinolab.denoisers.inflate import inflated_config
from kinolab.denoisers.mmdit import MmditConfig
from kinolab.denoisers.trained import QUERIES
from kinolab.denoisers.unet import UnetConfig
from kinolab.errors import InputError
from kinolab.tables import DENOISERS

What = Literal["queries", "temporal", "all"]
"""What of a model is tuned: the queries of its attention and its layers over time, these layers alone, or all of it."""
REACH = "first_previous"
LEFT = ("context_block.", "fps_embedder.", ".norm_temp.")
"""Parts of names that are tuned only with all the rest: what reads the frame rate, the prompt's own half of an MMDiT,
and the norm before the U-Net's attention over time, which the public code leaves as it is."""
QUERY_LAYERS = ("to_q", "q_linear")
"""Projections to queries alone."""


def tuned_config(
    image: BaseDenoiserConfig, frames: int, fields: Mapping[str, Any]
) -> tuple[BaseDenoiserConfig, Literal["image", "weights"]]:
    """The config of what an image model becomes, with so many latent frames, and by which method its weights begin:
    `image`, or `weights` for a model that is tuned as it is.

    `fields` win over what it implies.

    Raises:
        InputError: for what is no field, or does not fit.
    """
    kind: str | None = None
    implied: dict[str, Any] = {"num_frames": frames}
    if type(image) is UnetConfig:
        kind = "tuneavideo"
    elif isinstance(image, DiTConfig):
        kind, implied = "latte", {**implied, "reach": REACH}
    elif isinstance(image, MmditConfig) and image.attention == "2d":
        kind, implied = "mmdit", {**implied, "reach": REACH}
    if kind is None:
        return load_config(type(image), {**image.model_dump(), **fields}), "weights"
    return inflated_config(image, kind, {**implied, **fields}), "image"


def tuned_names(config: BaseDenoiserConfig, what: What) -> tuple[str, ...]:
    """The parameters that are trained, as a recipe's `trained_names` has them: short where all of a kind are meant.

    Raises:
        InputError: where the model has none such.
    """
    model = without_numbers(config)
    names = [name for name, _ in model.named_parameters()]
    if what == "queries":
        meant = [found for name in names if (found := _asked(model, name)) is not None]
    else:
        meant = [name for name in names if what == "all" or model.models_time(name)]
    if not meant:
        raise InputError(f"what: {what}: this {config.kind} has no layers over time; tune queries or all")
    return _short(meant, names)


def tuned_layers(config: BaseDenoiserConfig, what: What) -> tuple[str, ...]:
    """The linear layers that have low-rank changes instead, as a recipe's `lora_targets` has them; of `all` the
    projections of all attention.

    Raises:
        InputError: where the model has none such.
    """
    model = without_numbers(config)
    linear = [name for name, child in model.named_modules() if type(child) is nn.Linear]
    if what == "all":
        return _short([name for name in linear if "attn" in name], linear)
    found = []
    for name in linear:
        of_time = model.models_time(f"{name}.weight")
        asked = f"{name}.weight" if what == "temporal" and of_time else None
        asked = _asked(model, f"{name}.weight") if what == "queries" else asked
        if asked is not None:
            found.append(name + QUERIES * asked.endswith(QUERIES))
    if not found:
        raise InputError(f"what: {what}: this {config.kind} has no layers over time; tune queries or all")
    return _short(found, linear)


def without_numbers(config: BaseDenoiserConfig) -> Denoiser:
    """The model of a config without memory for its weights: for their names, and for what it takes."""
    with torch.device("meta"):
        return DENOISERS.of(config)(config)


def _asked(model: Denoiser, name: str) -> str | None:
    """A parameter's name as the paper's choice has it; none = it stays as it is."""
    if any(part in name for part in LEFT):
        return None
    layer = name.rpartition(".")[0].rpartition(".")[2]
    if model.models_time(name) or layer in QUERY_LAYERS:
        return name
    return name + QUERIES if layer == "qkv" else None


def _short(meant: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """Names with * for the numbers of blocks, where that means no other of the known ones."""
    kinds: dict[str, list[str]] = {}
    for name in meant:
        kinds.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", name), []).append(name)
    found: list[str] = []
    for pattern, members in kinds.items():
        plain = pattern.removesuffix(QUERIES)
        same = {n for n in known if fnmatchcase(n, plain)} == {n.removesuffix(QUERIES) for n in members}
        found += [pattern] if same else members
    return tuple(found)
