"""Initialise a video autoencoder from a trained image autoencoder (OD-VAE paper, section 3.3).

OD-VAE from AutoencoderKL, a causal TAESD from TAESD, DP-VAE from either.

"tail" puts each 2D kernel into the last slice in time of the 3D kernel, the rest being zero. An inflated
convolution then sees its own frame only, so that, with causal "nearest" upsampling:

- an image (a clip of one frame) is encoded and decoded exactly as the image autoencoder does, for every config;
- with norm "frame" and merged resampling, latent i of a clip is the image's latent of frame r*i, and frame t of a
  decoded clip is the image decoded from latent ceil(t / r).

"average" divides the 2D kernel among all slices: the equation holds for an image and, with norm "frame", for a still
clip. "random" takes nothing: an OD-VAE with fresh weights, to compare with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kinolab.autoencoders.dpvae import DpVae, DpVaeConfig
from kinolab.autoencoders.image import ImageAutoencoder, ImageConfig
from kinolab.autoencoders.odvae import OdVae, OdVaeConfig
from kinolab.autoencoders.taesd import Taesd, TaesdConfig
from kinolab.autoencoders.temporal_decoder import TemporalDecoderAutoencoder, TemporalDecoderConfig
from kinolab.config import load_config
from kinolab.contracts.table import KindConfig
from kinolab.errors import InputError

Init = Literal["tail", "average", "random"]

_RENAMED = (
    ("mid_block.resnets.0.", "mid.block_1."),
    ("mid_block.resnets.1.", "mid.block_2."),
    ("mid_block.attentions.0.group_norm.", "mid.attn_1.norm."),
    ("mid_block.attentions.0.to_out.0.", "mid.attn_1.proj_out."),
    ("mid_block.attentions.0.to_", "mid.attn_1."),
    ("conv_norm_out.", "norm_out."),
    ("down_blocks.", "down."),
    ("up_blocks.", "up."),
    (".resnets.", ".block."),
    (".downsamplers.0.", ".downsample."),
    (".upsamplers.0.", ".upsample."),
    (".conv_shortcut.", ".nin_shortcut."),
)


def matching_odvae(image: ImageConfig, fields: Mapping[str, Any]) -> OdVaeConfig:
    """The config of an OD-VAE that can take the weights of an image autoencoder; `fields` win over what it implies.

    Raises:
        InputError: for a field that OD-VAE has not, or of the wrong type.
    """
    width = math.gcd(*image.block_out_channels)
    levels = len(image.block_out_channels)
    implied: dict[str, Any] = {
        "hidden_size": width,
        "hidden_size_mult": [w // width for w in image.block_out_channels],
        "num_res_blocks": image.layers_per_block,
        "latent_channels": image.latent_channels,
        "channels": image.channels,
        "norm_num_groups": image.norm_num_groups,
        "mid_attention": "frame" if image.mid_block_attention else "none",
        "use_quant_conv": image.use_quant_conv,
        "use_post_quant_conv": image.use_post_quant_conv,
        "temporal_ratio": min(4, 2 ** (levels - 1)),
    }
    return load_config(OdVaeConfig, {**implied, **fields})


def inflate(image: ImageAutoencoder, config: OdVaeConfig, init: Init = "tail") -> OdVae:
    """A new OD-VAE of `config` whose weights come from `image`, in its type and on its device.

    Raises:
        InputError: where the two differ in a width, a count of layers or the latents; names the field and the value
            that `config` should have.
    """
    check_match(image, config)
    model = OdVae(config).to(image.latent_scale)
    if init != "random":
        model.load_state_dict(_inflated(image, model, init))
    return model


def matching_taesd(image: TaesdConfig, fields: Mapping[str, Any]) -> TaesdConfig:
    """The config of a causal TAESD that can take the weights of a published one; `fields` win over what it implies.

    Raises:
        InputError: for a field that TAESD has not, or of the wrong type.
    """
    most = 2 ** (min(len(image.encoder_blocks), len(image.decoder_blocks)) - 1)
    video = {"variant": "outer2d", "temporal_ratio": min(4, most)}
    return load_config(TaesdConfig, {**image.model_dump(), **video, **fields}, name="-s")


def inflate_taesd(image: Taesd, config: TaesdConfig, init: Init = "tail") -> Taesd:
    """A new causal TAESD of `config` whose weights come from `image`, in its type, units and on its device.

    Before any training, but for "random", the equations at the top of this file hold.

    Raises:
        InputError: where the two differ in more than `variant` and `temporal_ratio`, or `config` is of images too.
    """
    _check_equal(image.config, config, "", ("variant", "temporal_ratio", "gradient_checkpointing"))
    if config.variant == "image":
        raise InputError("this taesd config is of images: set variant (outer2d, ...) and temporal_ratio for videos")
    model = Taesd(config).to(image.latent_scale)
    if init != "random":
        model.load_state_dict(_inflated(image, model, init))
    return model


def inflate_dpvae(image: ImageAutoencoder | Taesd, config: DpVaeConfig, init: Init = "tail") -> DpVae:
    """A new DP-VAE of `config` around `image`, in its type and on its device.

    Its frozen part is a copy of `image` and its latents have the units of `image`; the 3D encoder and decoder are
    inflated from it by "tail" or "average", or fresh ("random"). So that before any training, but for "random", an
    image is encoded and decoded exactly as `image` does; and with "tail" the latent i of a group is the image's latent
    of its frame r*i.

    Raises:
        InputError: where `config.image` is not the config of `image`; names the fields.
    """
    _check_equal(image.config, config.image, "image.", ())
    model = DpVae(config).to(image.latent_scale)
    if init != "random":
        model.load_state_dict(_inflated(image, model, init))
    model.set_scaling(image.latent_shift, image.latent_scale)
    if model.image is not None:
        model.image.load_state_dict(image.state_dict())
    return model


def _check_equal(image: KindConfig, config: KindConfig, within: str, free: tuple[str, ...]) -> None:
    """Raises InputError where two configs differ in more than the latents' scale and the fields `free`."""
    excluded = {"latent_shift", "latent_scale", *free}
    theirs, ours = (c.model_dump(exclude=excluded) for c in (image, config))
    differing = [
        f"{within}{name}: expected {theirs.get(name, 'no such field')}, got {ours.get(name, 'no such field')}"
        for name in (theirs if theirs["kind"] == ours["kind"] else ("kind",))
        if theirs.get(name) != ours.get(name)
    ]
    if differing:
        kind = "dpvae" if within else config.kind
        said = "; ".join(differing)
        raise InputError(f"this {kind} config does not fit the image autoencoder: {said}; set the fields as expected")


def _inflated(image: ImageAutoencoder | Taesd, model: OdVae | DpVae | Taesd, init: Init) -> dict[str, Tensor]:
    """The state of `model` with the encoder, the decoder and the scaling of `image` inflated into it."""
    weights = dict(model.state_dict())
    kl = image.config if isinstance(image, ImageAutoencoder) else None
    for name, value in image.state_dict().items():
        target = name if kl is None else odvae_name(name, len(kl.block_out_channels))
        if target not in weights:
            # A 3D convolution keeps its weights in a module `conv` of its own.
            layer, _, last = target.rpartition(".")
            target = f"{layer}.conv.{last}"
        weights[target] = _inflate(value, weights[target].shape, init)
    for name, value in weights.items():
        if ".time_" in name and value.ndim == 5:  # residual resampling: the convolution begins as the identity
            identity = torch.eye(value.shape[0]).to(value)[:, :, None, None]  # (C, C, 1, 1), padded to (C, C, 3, 3)
            weights[name] = _inflate(F.pad(identity, (1, 1, 1, 1)), value.shape, init)
        elif ".time_" in name and name.endswith("conv.bias"):
            weights[name] = torch.zeros_like(value)
    return weights


def odvae_name(name: str, levels: int) -> str:
    """The name in OD-VAE's layout, but for the `.conv` of 3D convolutions, of a parameter of the image autoencoder."""
    for old, new in _RENAMED:
        name = name.replace(old, new)
    if name.startswith("decoder.up."):
        # The image decoder counts from the coarsest resolution, OD-VAE's from the finest.
        index, _, rest = name.removeprefix("decoder.up.").partition(".")
        name = f"decoder.up.{levels - 1 - int(index)}.{rest}"
    return name


def with_temporal_decoder(image: ImageAutoencoder, config: TemporalDecoderConfig) -> TemporalDecoderAutoencoder:
    """A new autoencoder of `config` that encodes and, until its layers over time are trained, decodes as `image` does.

    Raises:
        InputError: where `config` has other layers than `image`; names the fields.
    """
    ours, theirs = config.model_dump(), image.config.model_dump(exclude={"kind", "latent_shift", "latent_scale"})
    theirs["middle_blocks"] = 2
    differing = [f"{name}: expected {theirs[name]}, got {ours[name]}" for name in theirs if theirs[name] != ours[name]]
    if differing:
        raise InputError("this temporal_decoder config does not fit the image autoencoder: " + "; ".join(differing))
    model = TemporalDecoderAutoencoder(config).to(image.latent_scale)
    own = model.state_dict()
    for name, value in image.state_dict().items():
        head, block, tail = name.partition(".resnets.")
        if block and name.startswith("decoder."):
            number, _, rest = tail.partition(".")
            name = f"{head}.resnets.{number}.spatial_res_block.{rest}"
        own[name] = value
    model.load_state_dict(own)
    return model


def check_match(image: ImageAutoencoder, config: OdVaeConfig) -> None:
    """Raises InputError unless an OD-VAE of `config` can take the weights of `image`."""
    source = image.config
    pairs: list[tuple[str, object, object]] = [
        ("widths (hidden_size x hidden_size_mult)", config.widths, source.block_out_channels),
        ("num_res_blocks", config.num_res_blocks, source.layers_per_block),
        ("latent_channels", config.latent_channels, source.latent_channels),
        ("channels", config.channels, source.channels),
        ("norm_num_groups", config.norm_num_groups, source.norm_num_groups),
        ("mid_attention", config.mid_attention != "none", source.mid_block_attention),
        ("use_quant_conv", config.use_quant_conv, source.use_quant_conv),
        ("use_post_quant_conv", config.use_post_quant_conv, source.use_post_quant_conv),
    ]
    differing = [f"{name}: expected {theirs}, got {ours}" for name, ours, theirs in pairs if ours != theirs]
    if differing:
        raise InputError("this odvae config does not fit the image autoencoder: " + "; ".join(differing))


def _inflate(value: Tensor, shape: torch.Size, init: Init) -> Tensor:
    """A 2D kernel, a linear layer, or a vector, as the tensor of `shape` that has the same effect on an image."""
    if value.shape == shape:
        return value
    if value.ndim == 2:  # the linear layers of the attention
        return value.reshape(shape)
    assert value.shape == (*shape[:2], *shape[3:]), f"{tuple(value.shape)} does not inflate to {tuple(shape)}"
    if init == "average":
        return (value / shape[2]).unsqueeze(2).expand(shape).clone()  # (O, I, kh, kw) -> (O, I, kt, kh, kw)
    kernel = value.new_zeros(shape)
    kernel[:, :, -1] = value  # a causal convolution's last tap sees the frame itself
    return kernel
