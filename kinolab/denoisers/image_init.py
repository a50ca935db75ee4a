"""Start a Latte from the weights of an image DiT ("Learning with pre-trained models" in the Latte paper).

What fits is copied. What does not fit is handled as the paper does: DiT's position embedding serves every frame, and
the label embedding is dropped (and ours set to zero) where the classes differ. Where time is zero (`temporal: zero`),
the positions in time are rotary and the classes agree, every frame of any video comes out exactly as DiT alone gives
it: training starts from the image model. With the absolute table the equation can't hold, since it is added to the
tokens before the first temporal block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kinolab.config import Config
from kinolab.denoisers.latte import Latte, Role
from kinolab.errors import InputError


class ImageInitConfig(Config):
    """How image weights become video weights."""

    blocks: Literal["spatial", "all"] = "spatial"
    """Which of our blocks DiT's blocks become, in order: those that model space (the temporal block after each takes
    the same weights), or all, so that block i becomes block i of either kind, as in the released code."""
    temporal: Literal["zero", "copy"] = "zero"
    """What works over time starts without effect (modulation zero; split_heads: its part of the projection zero), or
    does over time what the image model does over space."""


@dataclass(frozen=True)
class ImageInit:
    """What became of the weights: our parameters that were copied, ours that were not, and DiT's that were dropped."""

    copied: tuple[str, ...]
    fresh: tuple[str, ...]
    dropped: tuple[str, ...]


def init_from_image(latte: Latte, image: Mapping[str, Tensor], config: ImageInitConfig | None = None) -> ImageInit:
    """Set `latte`'s weights, in place, from `image`: the state of a DiT in the public layout (`blocks.0.attn...`).

    Raises:
        InputError: where width, depth or MLP differ, or where Latte's blocks have no adaLN of their own.
    """
    config = config or ImageInitConfig()
    if latte.modulation != "block":
        raise InputError(
            "image weights need injection adaln and adaln block: DiT has a modulation layer in every block"
        )
    if "blocks.0.attn.qkv.weight" not in image:
        raise InputError("expected the weights of a DiT (blocks.0.attn.qkv.weight, ...), found no such key")
    old = latte.state_dict()
    new: dict[str, Tensor] = {}
    for name in ("t_embedder.mlp.0", "t_embedder.mlp.2", "final_layer.adaLN_modulation.1"):
        for part in ("weight", "bias"):
            new[f"{name}.{part}"] = image[f"{name}.{part}"]
    new |= _patches(latte, image) | _head(latte, image) | _blocks(latte, image, config)
    labels = image.get("y_embedder.embedding_table.weight")
    mine = old.get("y_embedder.embedding_table.weight")
    same_classes = labels is not None and mine is not None and labels.shape[0] == mine.shape[0]
    if mine is not None:
        new["y_embedder.embedding_table.weight"] = labels if same_classes and labels is not None else mine * 0
    if "pos_embed" in image and image["pos_embed"].shape == old["pos_embed"].shape:
        new["pos_embed"] = image["pos_embed"]
    # A pooled prompt is added to the time's embedding: zero, it changes nothing at first.
    nothing = {k: torch.zeros_like(v) for k, v in old.items() if k.startswith("pooled_embedder.mlp.2.")}
    for name, tensor in new.items():
        if tensor.shape != old[name].shape:
            raise InputError(f"{name}: the image weights give {tuple(tensor.shape)}, need {tuple(old[name].shape)}")
    latte.load_state_dict({**old, **new, **nothing})
    zeroed = {"y_embedder.embedding_table.weight"} if not same_classes else set()
    copied = tuple(k for k in old if k in new and k not in zeroed)
    dropped = tuple(k for k in image if k not in copied and not k.startswith("blocks."))
    return ImageInit(copied, tuple(k for k in old if k not in copied), dropped)


def _blocks(latte: Latte, image: Mapping[str, Tensor], config: ImageInitConfig) -> dict[str, Tensor]:
    """The weights of all blocks, each from the image block that it is paired with."""
    roles = latte.config.roles
    depth = 1 + max(int(k.split(".")[1]) for k in image if k.startswith("blocks."))
    spatial = [i for i, role in enumerate(roles) if role != "temporal"]
    paired = range(len(roles)) if config.blocks == "all" else spatial
    if len(paired) != depth:
        kind = "blocks" if config.blocks == "all" else "blocks that model space"
        raise InputError(f"the image model has {depth} blocks, this Latte {len(paired)} {kind}; expected as many")
    sources = dict(zip(paired, range(depth), strict=True))
    temporal = [i for i in range(len(roles)) if i not in sources]
    sources |= dict(zip(temporal, range(len(temporal)), strict=True))
    new: dict[str, Tensor] = {}
    for target, source in sources.items():
        prefix = f"blocks.{source}."
        block = {k.removeprefix(prefix): v for k, v in image.items() if k.startswith(prefix)}
        new |= {f"blocks.{target}.{k}": v for k, v in _adapt(block, roles[target], config.temporal == "copy").items()}
    return new


def _adapt(block: Mapping[str, Tensor], role: Role, copy: bool) -> dict[str, Tensor]:
    """The weights of one image block for a block of ours; unless `copy`, whatever it does over time adds nothing."""
    new = dict(block)
    modulation = {k: v for k, v in block.items() if k.startswith("adaLN_modulation.")}
    if role == "temporal" and not copy:
        new |= {k: torch.zeros_like(v) for k, v in modulation.items()}
    elif role == "joint":
        new |= {k.replace("attn.", "attn_temp.", 1): v for k, v in block.items() if k.startswith("attn.")}
        for k, v in modulation.items():
            attention = v[: v.shape[0] // 2]  # (3 D, ...) of (6 D, ...): shift, scale and gate; the MLP's follow
            new[k] = torch.cat([v, attention if copy else torch.zeros_like(attention)])
    elif role == "split" and not copy:
        # The columns of the projection that read the temporal half of the heads.
        projection = block["attn.proj.weight"].clone()
        projection[:, projection.shape[1] // 2 :] = 0
        new["attn.proj.weight"] = projection
    return new


def _patches(latte: Latte, image: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """DiT's patch embedding; a tubelet takes the mean over its frames, so that a still video gives DiT's tokens."""
    weight = image["x_embedder.proj.weight"]
    mine = latte.x_embedder.proj.weight
    if weight.shape[1] != mine.shape[1] or weight.shape[-1] != mine.shape[-1]:
        return {}
    pt = latte.config.temporal_patch
    if pt > 1:
        weight = weight[:, :, None].expand(-1, -1, pt, -1, -1) / pt  # (D, C, p, p) -> (D, C, pt, p, p)
    return {"x_embedder.proj.weight": weight, "x_embedder.proj.bias": image["x_embedder.proj.bias"]}


def _head(latte: Latte, image: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """DiT's output layer for our channels: the variance is dropped or starts at zero, tubelets repeat the frame."""
    c = latte.config
    channels = image["x_embedder.proj.weight"].shape[1]
    patch = image["x_embedder.proj.weight"].shape[-1]
    if channels != c.in_channels or patch != c.patch_size:
        return {}
    wanted = c.in_channels * (2 if c.learned_variance else 1)
    new = {}
    for part in ("weight", "bias"):
        rows = image[f"final_layer.linear.{part}"].unflatten(0, (patch * patch, -1))  # (p * p, C or 2C[, D])
        if rows.shape[1] < wanted:
            rows = torch.cat([rows, torch.zeros_like(rows)], dim=1)
        rows = rows[:, :wanted]
        new[f"final_layer.linear.{part}"] = rows.flatten(0, 1).repeat(c.temporal_patch, *[1] * (rows.ndim - 2))
    return new
