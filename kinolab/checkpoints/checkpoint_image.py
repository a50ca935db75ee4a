"""The image encoder inside a Stable Video Diffusion checkpoint, as a folder that transformers reads.

The first code keeps the picture tower of OpenCLIP's ViT-H/14 under `conditioner.embedders.0.open_clip.model.visual.`.
Its answer is the class token of the last layer, normed and projected: what transformers' CLIPVisionModelWithProjection
calls `image_embeds`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kinolab.checkpoints.open_clip import depth, renamed, tensors_under
from kinolab.errors import InputError
from kinolab.runtime.files import new_folder, write_text
from kinolab.runtime.weights import write_weights

OPEN_CLIP = "conditioner.embedders.0.open_clip.model.visual."
HEADS = {1280: 80, 1408: 88, 1664: 104}
"""Widths of OpenCLIP's large towers (H, g, bigG) -> the size of their heads, which no tensor tells; all others: 64."""
OUTER = {
    "class_embedding": "embeddings.class_embedding",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",  # the letters as transformers has them
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
"""OpenCLIP's names -> those of transformers, under `vision_model.`."""
NEEDED = (*OUTER, "proj")


def held_image(tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The image encoder's tensors in a checkpoint, by OpenCLIP's names; none = it holds none of a known kind.

    Raises:
        InputError: where a part of it is missing.
    """
    found = tensors_under(tensors, OPEN_CLIP)
    if not found:
        return None
    missing = [name for name in NEEDED if name not in found] + ["transformer.resblocks.0.*"] * (not depth(found))
    if missing:
        raise InputError(f"the image encoder in the file ({OPEN_CLIP}) lacks {', '.join(missing)}")
    return found


def write_image_encoder(held: Mapping[str, Tensor], folder: Path) -> Path:
    """Write `folder`/image_encoder, a CLIPVisionModelWithProjection of transformers; returns it."""
    named = {f"vision_model.{name}": value.contiguous() for name, value in renamed(held, OUTER, depth(held))}
    named["visual_projection.weight"] = held["proj"].T.contiguous()  # (D, P), which is multiplied from the right
    with new_folder(folder / "image_encoder") as room:
        write_weights(room / "model.safetensors", named, {"format": "pt"})
        write_text(room / "config.json", json.dumps(_settings(held), indent=1) + "\n")
    return folder / "image_encoder"


def _settings(held: Mapping[str, Tensor]) -> dict[str, Any]:
    """The config.json that shapes tell."""
    width, patch = held["conv1.weight"].shape[0], held["conv1.weight"].shape[-1]
    grid = round((len(held["positional_embedding"]) - 1) ** 0.5)  # one position is the class token's
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": len(held["transformer.resblocks.0.mlp.c_fc.weight"]),
        "num_hidden_layers": depth(held),
        "num_attention_heads": max(1, width // HEADS.get(width, 64)),
        "image_size": grid * patch,
        "patch_size": patch,
        "projection_dim": held["proj"].shape[1],
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
    }
