"""An image model becomes a video model: DiT -> Latte or VDT, MMDiT of images -> MMDiT of video.

Each begins with an equation that holds before any training, to float rounding: one frame in, the image model's answer
out. Where time starts without effect it holds for every frame of a clip: for Latte (rotary positions in time), and for
an MMDiT with `attention: 2d` or `2d+3d` (with `temporal_patch: 2` for still clips). VDT adds a fixed table of times to
its tokens, whose row of the first frame is taken off the patch embedding's bias: there it holds for one frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kinolab.config import load_config
from kinolab.denoisers.base import Denoiser
from kinolab.denoisers.dit import DiT
from kinolab.denoisers.image_init import ImageInit, ImageInitConfig, init_from_image
from kinolab.denoisers.latte import Latte, LatteConfig
from kinolab.denoisers.mmdit import Mmdit, MmditConfig
from kinolab.denoisers.vdt import Vdt, VdtConfig
from kinolab.errors import InputError
from kinolab.layers.embeddings import sincos_1d

OF_DIT = (
    *("hidden_size", "num_heads", "mlp_ratio", "in_channels", "input_size", "patch_size", "num_classes"),
    *("learned_variance", "gradient_checkpointing"),
)
"""Fields that a video model takes over from a DiT."""
SAME = (
    *("hidden_size", "depth", "num_heads", "mlp_ratio", "in_channels", "patch_size", "text_dim", "pooled_dim"),
    *("num_classes", "qk_norm", "dual_attention_layers", "spatial_position", "pos_embed_max_size"),
    *("null", "null_tokens", "pooled_norm"),
)
"""Fields in which two MMDiTs have to agree for one's weights to be the other's."""
FRAMES = 16
"""Latent frames of an inflated model where nothing else is asked for."""


def inflated(image: Denoiser, kind: str, fields: Mapping[str, Any]) -> tuple[Latte | Vdt | Mmdit, ImageInit]:
    """A video model of a kind (latte, vdt, mmdit) from an image model, and what became of the weights.

    `fields` of the new model's config win over those that the image model implies: latte interleaved with rotary
    positions in time, vdt, or mmdit with `attention: 2d+3d` and rotary positions, each of 16 frames.

    Raises:
        InputError: where the kind is not made from such a model, or a field does not fit it.
    """
    if isinstance(image, DiT) and kind in ("latte", "vdt"):
        implied = {name: getattr(image.config, name) for name in OF_DIT} | {"num_frames": FRAMES}
        depth = image.config.depth
        if kind == "vdt":
            model: Latte | Vdt | Mmdit = Vdt(load_config(VdtConfig, {**implied, "depth": depth, **fields}))
        else:
            both = fields.get("variant", "interleaved") in ("interleaved", "late_fusion")
            implied |= {"depth": depth * (2 if both else 1), "temporal_position": "rotary"}
            model = Latte(load_config(LatteConfig, {**implied, **fields}))
    elif isinstance(image, Mmdit) and kind == "mmdit":
        implied = image.config.model_dump() | {"num_frames": FRAMES, "attention": "2d+3d"}
        position = "none" if fields.get("attention") == "2d" else "rotary"
        model = Mmdit(load_config(MmditConfig, {**implied, "temporal_position": position, **fields}))
    else:
        raise InputError(
            f"a {type(image).__name__} does not become {kind}: DiT becomes latte or vdt, an MMDiT of images mmdit"
        )
    return model, start_from_image(model, image)


def start_from_image(model: nn.Module, image: nn.Module, config: ImageInitConfig | None = None) -> ImageInit:
    """Set a video model's weights, in place, from an image model of the kind that it extends.

    Raises:
        InputError: where the two don't go together or differ in a size.
    """
    if isinstance(model, Latte) and isinstance(image, DiT):
        return init_from_image(model, image.state_dict(), config)
    if isinstance(model, Vdt) and isinstance(image, DiT):
        return init_vdt(model, image, config)
    if isinstance(model, Mmdit) and isinstance(image, Mmdit):
        return init_mmdit(model, image)
    raise InputError(
        f"a {type(image).__name__} does not make a {type(model).__name__}: a DiT makes a Latte or a VDT, an MMDiT of "
        "images one of video"
    )


@torch.no_grad()
def init_vdt(vdt: Vdt, image: DiT, config: ImageInitConfig | None = None) -> ImageInit:
    """Set a VDT's weights, in place, from a DiT's.

    The attention in time takes the weights of the one in space. With `temporal: zero` the linear layer after it is
    zero; with `copy` it is the identity, so that time does what space does. Given latents, where the model takes any,
    begin with fresh weights of their own that see nothing where nothing is given.

    Raises:
        InputError: where a size differs.
    """
    config = config or ImageInitConfig()
    ours, theirs = vdt.config, image.config
    if ours.adaln != "block":
        raise InputError("image weights need adaln block: DiT has a modulation layer in every block")
    if vdt.joint or ours.qk_norm:
        raise InputError("image weights need temporal_attention first or last and no qk_norm: DiT has neither of them")
    _agree(ours, theirs, (*(f for f in OF_DIT if f not in ("input_size", "gradient_checkpointing")), "depth"))
    old, state = vdt.state_dict(), image.state_dict()
    new = {k: v for k, v in state.items() if k in old and k != "pos_embed"}
    patches = old["x_embedder.proj.weight"] * 0
    patches[:, : theirs.in_channels] = state["x_embedder.proj.weight"]
    new["x_embedder.proj.weight"] = patches
    start = sincos_1d(torch.zeros(1), ours.hidden_size)[0]
    new["x_embedder.proj.bias"] = state["x_embedder.proj.bias"] - start.to(patches)
    for i in range(ours.depth):
        attention, linear = f"blocks.{i}.attn.", f"blocks.{i}.temporal_fc."
        new |= {k.replace(".attn.", ".temporal_attn."): v for k, v in state.items() if k.startswith(attention)}
        weight = old[f"{linear}weight"]
        identity = torch.eye(len(weight)).to(weight)
        new[f"{linear}weight"] = identity if config.temporal == "copy" else torch.zeros_like(weight)
        new[f"{linear}bias"] = torch.zeros_like(old[f"{linear}bias"])
    new |= {k: torch.zeros_like(v) for k, v in old.items() if k.startswith("pooled_embedder.mlp.2.")}
    vdt.load_state_dict({**old, **new})
    return _report(old, [k for k in state if k in new], state, new)


def init_mmdit(video: Mmdit, image: Mmdit) -> ImageInit:
    """Set a video MMDiT's weights, in place, from an image MMDiT's (`Mmdit.start_video_parameters` for the rest).

    Raises:
        InputError: where a field that decides the weights differs, or the source is a video model with parameters for
            time.
    """
    time = [name for name, _ in image.named_parameters() if image.models_time(name) and "fps_" not in name]
    if time:
        raise InputError(f"expected an MMDiT of images to inflate, got one with {time[0]}: start from its weights")
    _agree(video.config, image.config, SAME)
    old, state = video.state_dict(), image.state_dict()
    table = set()
    if "pos_embed" in state and state["pos_embed"].shape != old["pos_embed"].shape:
        if video.config.spatial_position == "learned":
            raise InputError(
                f"input_size {video.config.input_size}: the image model's learned table is for "
                f"{image.config.input_size}; keep it, or train the image model with pos_embed_max_size"
            )
        table = {"pos_embed"}
    new = {k: v for k, v in state.items() if k in old and k not in table}
    video.load_state_dict({**old, **new})
    rate = {k: v for k, v in new.items() if k.startswith("fps_embedder.")}
    video.start_video_parameters()
    video.load_state_dict({**video.state_dict(), **rate})
    return _report(old, list(new), state, new)


def _agree(ours: Any, theirs: Any, names: tuple[str, ...]) -> None:
    """Raises InputError naming every field in which two configs differ."""
    wrong = [n for n in names if getattr(ours, n) != getattr(theirs, n)]
    if wrong:
        said = "; ".join(f"{n}: the image model has {getattr(theirs, n)}, got {getattr(ours, n)}" for n in wrong)
        raise InputError(f"this {ours.kind} config does not fit the image model: {said}")


def _report(
    old: Mapping[str, Tensor], copied: list[str], image: Mapping[str, Tensor], new: Mapping[str, Tensor]
) -> ImageInit:
    fresh = tuple(k for k in old if k not in copied)
    return ImageInit(tuple(copied), fresh, tuple(k for k in image if k not in new))
