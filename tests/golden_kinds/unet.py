"""Kinds of Stable Diffusion's image U-Net."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kinolab.denoisers import Conditions, Denoiser, Unet
from tests.golden_kinds import Golden, runs


def heads(config: dict[str, Any]) -> dict[str, Any]:
    """Fields that weights don't tell, from the arguments of diffusers' classes of images, where the number of heads is
    called attention_head_dim."""
    told = config.get("attention_head_dim", 8)
    fields = {"num_heads": told} if isinstance(told, int) else {"num_heads": tuple(told)}
    return {**fields, "norm_groups": config.get("norm_num_groups", 32)}


@runs("Unet2D")
def unet_2d(golden: Golden) -> dict[str, Tensor]:
    """diffusers' UNet2DConditionModel on images."""
    model = golden.load(**heads(golden.config))
    assert isinstance(model, Unet)
    sample = golden["sample"]
    t = golden["timestep"].expand(len(sample))
    out = model(sample[:, :, None], t, Conditions(text=golden["encoder_hidden_states"]))
    return {"out": out[:, :, 0]}


@runs("LdmUnet")
def ldm_unet(golden: Golden) -> dict[str, Tensor]:
    """latent-diffusion's UNetModel on images."""
    model = golden.load("model.diffusion_model.", num_heads=golden.config["num_heads"])
    assert isinstance(model, Unet)
    out = model(golden["x"][:, :, None], golden["timesteps"], Conditions(text=golden["context"]))
    return {"out": out[:, :, 0]}


@runs("Unet3D")
def unet_3d(golden: Golden) -> dict[str, Tensor]:
    """diffusers' UNet3DConditionModel (ModelScope), whose attention_head_dim is the size of a head."""
    config = golden.config
    model = golden.load(head_size=config.get("attention_head_dim", 64), norm_groups=config.get("norm_num_groups", 32))
    return {"out": on_clips(model, golden)}


@runs("UNetSD")
def unet_sd(golden: Golden) -> dict[str, Tensor]:
    """ModelScope's own UNetSD, as its first code has it."""
    return {"out": on_clips(golden.load(), golden)}


@runs("UnetMotion")
def unet_motion(golden: Golden) -> dict[str, Tensor]:
    """diffusers' UNetMotionModel (AnimateDiff)."""
    config = golden.config
    told = heads({"attention_head_dim": config.get("num_attention_heads", 8), **config})
    motion = {"motion_heads": config.get("motion_num_attention_heads", 8)}
    return {"out": on_clips(golden.load(**told, **motion), golden)}


@runs("AnimateDiffUNet")
def animatediff(golden: Golden) -> dict[str, Tensor]:
    """AnimateDiff's own UNet3DConditionModel; `use_inflated_groupnorm` are norms of each frame."""
    config = golden.config
    motion = config["motion_module_kwargs"]
    model = golden.load(
        **heads(config),
        norm_scope="frame" if config.get("use_inflated_groupnorm") else "clip",
        motion_heads=motion["num_attention_heads"],
        motion_positions=motion["temporal_position_encoding_max_len"],
    )
    return {"out": on_clips(model, golden)}


def on_clips(model: Denoiser, golden: Golden) -> Tensor:
    """The output for clips (B, C, F, H, W)."""
    sample = golden["sample"]
    return model(sample, golden["timestep"].expand(len(sample)), Conditions(text=golden["encoder_hidden_states"]))
