"""An image model becomes a video model: DiT -> Latte or VDT, MMDiT of images -> MMDiT of video, U-Net -> any system
that is made of it.

Each begins with an equation that holds before any training, to float rounding: one frame in, the image model's answer
out. Where time starts without effect it holds for every frame of a clip: for Latte (rotary positions in time), and for
an MMDiT with `attention: 2d` or `2d+3d` (with `temporal_patch: 2` for still clips), and for the U-Nets whose norms are
of each frame. VDT adds a fixed table of times to
its tokens, whose row of the first frame is taken off the patch embedding's bias: there it holds for one frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kinolab.config import load_config
from kinolab.denoisers.base import BaseDenoiserConfig, Denoiser
from kinolab.denoisers.dit import DiT, DiTConfig
from kinolab.denoisers.image_init import ImageInit, ImageInitConfig, init_from_image
from kinolab.denoisers.latte import Latte, LatteConfig
from kinolab.denoisers.mmdit import Mmdit, MmditConfig
from kinolab.denoisers.unet import Unet, UnetFields
from kinolab.denoisers.vdt import Vdt, VdtConfig
from kinolab.errors import InputError
from kinolab.layers.embeddings import sincos_1d
from kinolab.tables import DENOISERS

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
OF_UNET = (
    *("in_channels", "block_out_channels", "layers_per_block", "attention_levels", "transformer_depth", "text_dim"),
    *("linear_projection", "norm_groups", "learned_variance", "num_classes", "pooled_dim", "null", "null_tokens"),
)
"""Fields in which two U-Nets have to agree for one's weights to be the other's; and in their heads."""
TOLD_BESIDE = ("given", "mask_channels", "fps_condition", "concatenated", "vectors", "fields", "norm_scope")
"""Fields of a U-Net that a system made of it may have other defaults of: taken over only where they were set."""
FRAMES = 16
"""Latent frames of an inflated model where nothing else is asked for."""


def inflated(image: Denoiser, kind: str, fields: Mapping[str, Any]) -> tuple[Denoiser, ImageInit]:
    """A video model of a kind (latte, vdt, mmdit, a U-Net's) from an image model, and what became of the weights.

    See `inflated_config` for `fields`.

    Raises:
        InputError: where the kind is not made from such a model, or a field does not fit it.
    """
    config = inflated_config(image.config, kind, fields)
    model = DENOISERS.of(config)(config)
    return model, start_from_image(model, image)


def inflated_config(image: BaseDenoiserConfig, kind: str, fields: Mapping[str, Any]) -> BaseDenoiserConfig:
    """The config of a video model of a kind from that of an image model.

    `fields` win over what the image model implies: latte interleaved with rotary positions in time, vdt, or mmdit with
    `attention: 2d+3d` and rotary positions, each of 16 frames; a system made of the U-Net with its own layers over
    time.

    Raises:
        InputError: where the kind is not made from such a model, or a field does not fit it.
    """
    if isinstance(image, DiTConfig) and kind in ("latte", "vdt"):
        implied = {name: getattr(image, name) for name in OF_DIT} | {"num_frames": FRAMES}
        if kind == "vdt":
            return load_config(VdtConfig, {**implied, "depth": image.depth, **fields})
        both = fields.get("variant", "interleaved") in ("interleaved", "late_fusion")
        implied |= {"depth": image.depth * (2 if both else 1), "temporal_position": "rotary"}
        return load_config(LatteConfig, {**implied, **fields})
    if isinstance(image, MmditConfig) and kind == "mmdit":
        implied = image.model_dump() | {"num_frames": FRAMES, "attention": "2d+3d"}
        position = "none" if fields.get("attention") == "2d" else "rotary"
        return load_config(MmditConfig, {**implied, "temporal_position": position, **fields})
    if isinstance(image, UnetFields) and kind in unet_systems():
        cls = unet_systems()[kind]
        return load_config(cls.Config, {**_implied_by_unet(image, cls), **fields})
    name = DENOISERS.of(image).__name__
    raise InputError(
        f"a {name} does not become {kind}: DiT becomes latte or vdt, an MMDiT of images mmdit, a U-Net "
        f"{', '.join(unet_systems())}"
    )


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
    if isinstance(model, Unet) and isinstance(image, Unet):
        return init_unet(model, image)
    raise InputError(
        f"a {type(image).__name__} does not make a {type(model).__name__}: a DiT makes a Latte or a VDT, an MMDiT of "
        "images one of video, a U-Net of images one with layers over time"
    )


def unet_systems() -> dict[str, type[Unet]]:
    """The video models that are made of the U-Net of images, by their kinds."""
    classes = {kind: DENOISERS.get(kind) for kind in DENOISERS}
    return {kind: c for kind, c in classes.items() if issubclass(c, Unet) and c is not Unet}


def _implied_by_unet(image: UnetFields, cls: type[Unet]) -> dict[str, Any]:
    """Fields of a system's config that make it fit an image model."""
    values = {name: getattr(image, name) for name in UnetFields.model_fields if name != "kind"}
    usual = {name: UnetFields.model_fields[name].get_default(call_default_factory=True) for name in TOLD_BESIDE}
    kept = {name: value for name, value in values.items() if name not in usual or value != usual[name]}
    return {**cls.starts_as_image, **kept}


@torch.no_grad()
def init_unet(video: Unet, image: Unet, *, trained: bool = False) -> ImageInit:
    """Set a video U-Net's image layers, in place, from an image U-Net's; what stands in its slots stays as it is.

    Of a fresh model those layers begin as nothing, and so do inputs of the first convolution that the image model has
    not. Of a `trained` one both are kept: other image weights are put under what it has learned of time.

    Raises:
        InputError: where a field that decides the weights differs, or the source has layers over time that are not in
            the video model.
    """
    old, state = video.state_dict(), image.state_dict()
    extra = [name for name, _ in image.named_parameters() if image.models_time(name) and name not in old]
    if extra and "fps_embedder" not in extra[0]:
        raise InputError(f"expected a U-Net of images to start from, got one with {extra[0]}")
    _agree(video.config, image.config, OF_UNET)
    levels = range(len(image.config.block_out_channels))
    ours, theirs = ([c.heads(level) for level in levels] for c in (video.config, image.config))
    if ours != theirs:
        raise InputError(f"heads (number, size): the image model has {theirs}, got {ours}")
    new = {name: value for name, value in state.items() if name in old}
    new["conv_in.weight"] = _first_convolution(video, image, trained)
    video.load_state_dict({**old, **new})
    return _report(old, list(new), state, new)


def _first_convolution(video: Unet, image: Unet, trained: bool) -> Tensor:
    """The weights of a first convolution that reads the image model's inputs as that does, and no others unless it is
    trained to.

    Raises:
        InputError: for an input of the image model that the video model has not.
    """
    ours, theirs = video.input_columns(), image.input_columns()
    weight = video.conv_in.weight * (1 if trained else 0)
    for name, columns in theirs.items():
        if name not in ours or len(ours[name]) != len(columns):
            raise InputError(f"the image model reads {len(columns)} channels of {name}: the video model needs them too")
        weight[:, list(ours[name])] = image.conv_in.weight[:, list(columns)].to(weight)
    return weight


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
