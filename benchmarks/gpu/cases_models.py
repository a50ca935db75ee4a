"""The cases of every denoiser and every autoencoder, in each variant that computes something of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.cases import Case, fresh, seeded
from kinolab.autoencoders import (
    DpVae,
    DpVaeConfig,
    ImageAutoencoder,
    ImageConfig,
    OdVae,
    OdVaeConfig,
    PixelAutoencoder,
    PixelConfig,
    Taesd,
    TaesdConfig,
    Tats,
    TatsConfig,
    TemporalDecoderAutoencoder,
    TemporalDecoderConfig,
    Vqgan,
    VqganConfig,
)
from kinolab.autoencoders.base import Autoencoder
from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Reach
from kinolab.denoisers import (
    AnimateDiff,
    AnimateDiffConfig,
    Conditions,
    DiT,
    DiTConfig,
    ImagenVideo,
    ImagenVideoConfig,
    Latte,
    LatteConfig,
    MakeAVideo,
    MakeAVideoConfig,
    Mmdit,
    MmditConfig,
    ModelScope,
    ModelScopeConfig,
    SpaceTimeUnet,
    SpaceTimeUnetConfig,
    Svd,
    SvdConfig,
    TuneAVideo,
    TuneAVideoConfig,
    Unet,
    UnetConfig,
    Vdm,
    VdmConfig,
    Vdt,
    VdtConfig,
    VideoLdm,
    VideoLdmConfig,
)

CLASSES = 10

LATTE: dict[str, dict[str, Any]] = {
    "interleaved, labels": {"num_classes": CLASSES},
    "interleaved, text, single adaln, rotary": {
        "text": True, "adaln": "single", "temporal_position": "rotary", "qk_norm": True,
    },
    "late_fusion, tubelets": {"variant": "late_fusion", "patch_embedding": "compression", "temporal_patch": 2},
    "joint_block, learned variance": {"variant": "joint_block", "learned_variance": True},
    "split_heads, all_tokens": {"variant": "split_heads", "injection": "all_tokens", "num_classes": CLASSES},
    "interleaved, checkpointing": {"gradient_checkpointing": True},
}  # fmt: skip
VDT: dict[str, dict[str, Any]] = {
    "labels": {"num_classes": CLASSES},
    "text, single adaln, time last": {"text": True, "adaln": "single", "temporal_attention": "last"},
    "joint, text, qk_norm": {"text": True, "temporal_attention": "joint", "qk_norm": True, "adaln": "single"},
    **{f"given: {how}": {"given": how} for how in ("adaln", "cross_attention", "tokens", "mask", "channels")},
}
MMDIT: dict[str, dict[str, Any]] = {
    "2d, text": {"attention": "2d", "temporal_position": "sincos", "text": True},
    "3d, text, rotary, qk_norm": {"attention": "3d", "text": True, "qk_norm": True},
    "2d+3d, labels, fps, dual": {
        "attention": "2d+3d", "num_classes": CLASSES, "fps_condition": True, "dual_attention_layers": (0,),
    },
    "3d, rotary in space, tubelets": {"spatial_position": "rotary", "temporal_patch": 2},
    "3d, learned table, sincos": {"spatial_position": "learned", "temporal_position": "sincos"},
}  # fmt: skip
VDM: dict[str, dict[str, Any]] = {
    "linear attention, labels": {"num_classes": CLASSES},
    "full attention, text": {"text": True, "spatial_attention": "full"},
    "no attention on levels, learned variance": {"spatial_attention": "none", "learned_variance": True},
}
UNETS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "unet: text": (Unet, UnetConfig, {"text": True}),
    "unet: labels, linear projections": (Unet, UnetConfig, {"num_classes": CLASSES, "linear_projection": True}),
    "modelscope": (ModelScope, ModelScopeConfig, {"text": True}),
    "animatediff: v1": (AnimateDiff, AnimateDiffConfig, {"text": True, "motion_heads": 2, "version": "v1"}),
    "animatediff: v2": (AnimateDiff, AnimateDiffConfig, {"text": True, "motion_heads": 2, "version": "v2"}),
    "video_ldm: text": (VideoLdm, VideoLdmConfig, {"text": True}),
    "video_ldm: given: context": (VideoLdm, VideoLdmConfig, {"given": "context"}),
    "makeavideo": (MakeAVideo, MakeAVideoConfig, {"text": True, "fps_condition": True}),
    "imagen_video: attention": (ImagenVideo, ImagenVideoConfig, {"text": True}),
    "imagen_video: convolution": (
        ImagenVideo,
        ImagenVideoConfig,
        {"text": True, "temporal": "convolution", "spatial_attention": False},
    ),
    "tuneavideo": (TuneAVideo, TuneAVideoConfig, {"text": True, "norm_scope": "clip"}),
    "svd": (Svd, SvdConfig, {"text": True, "context": "text", "concatenated": {}, "number_features": 8}),
}


class Sizes:
    """The sizes of the denoisers' cases: a few blocks of a small published model, or as little as works."""

    def __init__(self, small: bool) -> None:
        self.width, self.depth, self.heads = (32, 2, 2) if small else (384, 4, 6)
        self.frames, self.side, self.batch = (4, 4, 2) if small else (8, 16, 2)
        self.text_dim, self.tokens = (12, 5) if small else (384, 22)

    def fields(self, variant: dict[str, Any], *, video: bool = True) -> dict[str, Any]:
        """The fields of a denoiser's config."""
        told = {"text_dim": self.text_dim, "pooled_dim": self.text_dim} if variant.get("text") else {}
        rest = {k: v for k, v in variant.items() if k != "text"}
        frames = {"num_frames": self.frames} if video else {}
        sizes = {"hidden_size": self.width, "depth": self.depth, "num_heads": self.heads, "input_size": self.side}
        return {**sizes, **frames, **told, **rest}

    def unet(self, variant: dict[str, Any]) -> dict[str, Any]:
        """The fields of a U-Net's config: two levels, of as many channels as the transformers have at most."""
        same = self.fields(variant)
        heads = {"num_heads": self.heads, "head_dim": 4, "spatial_head_dim": 4}
        kept = {name: value for name, value in same.items() if name not in ("hidden_size", "depth", "num_heads")}
        return {**kept, **heads, "dim": self.width // 2, "dim_mults": (1, 2)}

    def space_time(self, variant: dict[str, Any]) -> dict[str, Any]:
        """The fields of the config of Make-A-Video's public network, of two levels, the second of half the frames."""
        same = self.unet(variant)
        levels = {"attention": (False, True), "halves_time": (False, True), "depths": (1, 1), "num_frames": 4}
        kept = {name: value for name, value in same.items() if name != "spatial_head_dim"}
        return {**kept, **levels}

    def latent_unet(self, variant: dict[str, Any], *, video: bool) -> dict[str, Any]:
        """The fields of the config of a U-Net of latent diffusion, of two levels."""
        same = self.fields(variant, video=video)
        kept = {name: value for name, value in same.items() if name not in ("hidden_size", "depth", "pooled_dim")}
        widths = {"block_out_channels": (self.width // 2, self.width), "layers_per_block": 1, "norm_groups": 4}
        return {**kept, **widths, "attention_levels": (0, 1), "num_heads": 2, "head_size": None}

    def inputs(self, denoiser_spec: Any, frames: int) -> tuple[Tensor, Tensor, Conditions]:
        """Noisy latents, times and all conditions that the denoiser takes; the second sample's are the null ones."""
        spec, B = denoiser_spec, self.batch
        z = seeded(10, B, spec.channels, frames, self.side, self.side)
        told = Conditions(null=torch.tensor([False] * (B - 1) + [True]))
        if spec.num_classes:
            told = told.replace(label=torch.arange(B) % spec.num_classes)
        if spec.text_dim:
            mask = torch.arange(self.tokens)[None] < torch.tensor([self.tokens] + [self.tokens - 2] * (B - 1))[:, None]
            told = told.replace(text=seeded(11, B, self.tokens, spec.text_dim), text_mask=mask)
        if spec.pooled_dim:
            told = told.replace(pooled=seeded(12, B, spec.pooled_dim))
        if spec.fps:
            told = told.replace(fps=torch.arange(1, B + 1) * 8.0)
        if spec.given != "none":
            mask = torch.ones(B, spec.mask_channels, frames, self.side, self.side)
            mask[:, :, 0] = 0  # the first frame is given
            told = told.replace(given=seeded(13, *z.shape) * (mask[:, :1] == 0), mask=mask)
        if not (spec.num_classes or spec.text_dim):
            told = told.replace(null=None)
        return z, torch.linspace(50, 900, B).round(), told


def denoisers(small: bool) -> Iterator[Case]:
    """One case for each variant of each denoiser."""
    sizes = Sizes(small)
    tables: list[tuple[str, Any, Any, dict[str, dict[str, Any]]]] = [
        ("latte", Latte, LatteConfig, LATTE),
        ("vdt", Vdt, VdtConfig, VDT),
        ("mmdit", Mmdit, MmditConfig, MMDIT),
        ("dit", DiT, DiTConfig, {"labels, learned variance": {"num_classes": CLASSES, "learned_variance": True}}),
    ]
    for kind, module, config, variants in tables:
        for name, variant in variants.items():
            settled = config(**sizes.fields(variant, video=kind != "dit"))
            frames = 1 if kind == "dit" else sizes.frames
            yield Case(
                f"{kind}: {name}", fresh(_maker(module, settled)), _inputs_of(sizes, module, settled, frames),
            )  # fmt: skip
    for name, variant in VDM.items():
        unet = VdmConfig(**sizes.unet(variant))
        yield Case(f"vdm: {name}", fresh(_maker(Vdm, unet)), _inputs_of(sizes, Vdm, unet, sizes.frames))
    space_time = SpaceTimeUnetConfig(**sizes.space_time({"num_classes": CLASSES}))
    yield Case(
        "space_time_unet", fresh(_maker(SpaceTimeUnet, space_time)), _inputs_of(sizes, SpaceTimeUnet, space_time, 4)
    )
    for name, (module, config, variant) in UNETS.items():
        settled = config(**sizes.latent_unet(variant, video="num_frames" in config.model_fields))
        yield Case(name, fresh(_maker(module, settled)), _inputs_of(sizes, module, settled, sizes.frames))
    unet = VdmConfig(**sizes.unet({"num_classes": CLASSES}))
    yield Case("vdm: joint images", fresh(_maker(Vdm, unet)), lambda: _joint(sizes))
    joint = LatteConfig(**sizes.fields({"num_classes": CLASSES}))
    yield Case("latte: joint images", fresh(_maker(Latte, joint)), lambda: _joint(sizes))
    beside_text = MmditConfig(**sizes.fields({"attention": "2d", "temporal_position": "none", "text": True}))
    for name, module, config in (("latte", Latte, joint), ("mmdit", Mmdit, beside_text)):
        for reach in ("first", "first_previous", "all"):
            yield Case(
                f"{name}: reach {reach}", fresh(_maker(module, config)),
                _inputs_of(sizes, module, config, sizes.frames), _reaching(Reach(reach)),
            )  # fmt: skip


def _reaching(reach: Reach) -> Callable[..., Tensor]:
    options = ForwardOptions(reach=reach)
    return lambda module, z, t, conditions: module(z, t, conditions, options)


def _maker(module: Callable[[Any], nn.Module], config: Any) -> Callable[[], nn.Module]:
    return lambda: module(config)


def _inputs_of(sizes: Sizes, module: Any, config: Any, frames: int) -> Callable[[], tuple[Any, ...]]:
    def inputs() -> tuple[Any, ...]:
        with torch.device("meta"):
            spec = module(config).spec
        return sizes.inputs(spec, frames)

    return inputs


def _joint(sizes: Sizes) -> tuple[Any, ...]:
    z = seeded(10, sizes.batch, 4, sizes.frames + 1, sizes.side, sizes.side)  # the last frame is an image
    label = torch.arange(sizes.batch * 2).view(sizes.batch, 2) % CLASSES
    return z, torch.linspace(50, 900, sizes.batch).round(), Conditions(label=label, image_frames=1)


def autoencoders(small: bool) -> Iterator[Case]:
    """Encode and decode of each variant of each autoencoder; of those with codes what the codes are chosen from."""
    width, side = (8, 16) if small else (32, 64)
    video: dict[str, tuple[Any, Any, int]] = {
        f"odvae: {variant}": (OdVae, _odvae(width, variant=variant), 9)
        for variant in ("all3d", "half2d", "outer2d", "encoder_outer2d")
    }
    video["odvae: public layout 1.1"] = (
        OdVae,
        _odvae(width, resampling="residual", norm="clip", upsampling="trilinear", mid_attention="scrambled"),
        9,
    )
    image = ImageConfig(block_out_channels=(width, 2 * width, 2 * width), layers_per_block=1, norm_num_groups=4)
    video["image"] = (ImageAutoencoder, image, 3)
    decoder = TemporalDecoderConfig(
        block_out_channels=(width, 2 * width, 2 * width), layers_per_block=1, norm_num_groups=4
    )
    video["temporal_decoder"] = (TemporalDecoderAutoencoder, decoder, 3)
    video["pixel"] = (PixelAutoencoder, PixelConfig(latent_scale=2.0), 3)
    video["dpvae"] = (DpVae, DpVaeConfig(image=image, temporal_ratio=4, group_frames=9), 9)
    tiny: dict[str, Any] = {"width": width, "decoder_widths": (width,) * 4, "global_part": True}
    video["taesd"] = (Taesd, TaesdConfig(**tiny), 3)
    video["taesd: outer2d"] = (Taesd, TaesdConfig(**tiny, variant="outer2d", temporal_ratio=4), 9)
    video["tats: batch norm"] = (
        Tats,
        TatsConfig(n_hiddens=width, embedding_dim=8, n_codes=64, downsample=(2, 4, 4)),
        8,
    )
    video["tats: group norm"] = (
        Tats,
        TatsConfig(
            n_hiddens=width, embedding_dim=8, n_codes=64, downsample=(2, 4, 4), norm_type="group", norm_num_groups=4
        ),
        8,
    )
    video["vqgan"] = (
        Vqgan,
        VqganConfig(
            ch=width, ch_mult=(1, 2), num_res_blocks=1, resolution=side, attn_resolutions=(side // 2,), z_channels=8,
            embed_dim=8, n_embed=64, norm_num_groups=4,
        ),
        2,
    )  # fmt: skip
    for name, (module, config, frames) in video.items():
        build = fresh(_maker(module, config))
        clip = _clip_of(frames, side)
        if name.startswith(("tats", "vqgan")):  # which code is nearest may turn on the last bit: it has no gradient
            yield Case(f"{name}, before its codes", build, clip, _before_codes, gradients=False)
        else:
            yield Case(f"{name}, encode", build, clip, _encode)
        yield Case(f"{name}, decode", build, _latents_of(module, config, frames, side), _decode)
    exact = fresh(_maker(OdVae, _odvae(width)))
    yield Case("odvae: streamed", exact, _clip_of(9, side), _streamed, gradients=False)


def _odvae(width: int, **changes: Any) -> OdVaeConfig:
    fields: dict[str, Any] = {
        "hidden_size": width, "hidden_size_mult": (1, 2, 2), "num_res_blocks": 1, "norm_num_groups": 4, **changes,
    }  # fmt: skip
    return OdVaeConfig(**fields)


def _clip_of(frames: int, side: int) -> Callable[[], tuple[Any, ...]]:
    return lambda: (seeded(20, 1, 3, frames, side, side).clamp(-1, 1),)


def _latents_of(module: Any, config: Any, frames: int, side: int) -> Callable[[], tuple[Any, ...]]:
    def inputs() -> tuple[Any, ...]:
        with torch.device("meta"):
            spec = module(config).spec
        return (seeded(21, 1, *spec.latent_shape(frames, side, side)),)

    return inputs


def _encode(module: Autoencoder, video: Tensor) -> tuple[Tensor, Tensor]:
    posterior = module.encode(video)
    return posterior.mean, posterior.logvar


def _decode(module: Autoencoder, latents: Tensor) -> Tensor:
    return module.decode(latents)


def _before_codes(module: Any, video: Tensor) -> Tensor:
    if isinstance(module, Vqgan):
        frames = video.transpose(1, 2).flatten(0, 1)
        return module.quant_conv(module.encoder(frames))
    return module.pre_vq_conv(module.encoder(video))


def _streamed(module: Autoencoder, video: Tensor) -> tuple[Tensor, Tensor]:
    parts = [video[:, :, :5], video[:, :, 5:]]
    means = [posterior.mean for posterior in module.encode_stream(iter(parts))]
    return torch.cat(means, 2), torch.cat(list(module.decode_stream(iter(means))), 2)
