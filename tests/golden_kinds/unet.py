"""Kinds of Stable Diffusion's image U-Net."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kinolab.denoisers import Conditions, Unet
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
