"""Kinds of Make-A-Video's most used code: its blocks of pseudo-3D layers, and its U-Net."""

from __future__ import annotations

import re
from typing import TypeVar

from safetensors.torch import load_file
from torch import Tensor, nn

from kinolab.checkpoints.space_time_unet import LAYERS
from kinolab.denoisers import Conditions, SpaceTimeUnet
from kinolab.denoisers.space_time_unet import Doubling, Halving, ResidualBlock, SpaceTimeAttention
from kinolab.layers.pseudo3d import PseudoConv3d
from tests.golden_kinds import WEIGHTS, Golden, runs

M = TypeVar("M", bound=nn.Module)
RESAMPLING = {"down.": r"down_\1.1.", "up.": r"up_\1.0."}


def filled(module: M, golden: Golden, prefix: str) -> M:
    """A module with the weights under a prefix, every one of which is used."""
    start = f"{WEIGHTS}{prefix}"
    found = {k.removeprefix(start): v.float() for k, v in load_file(golden.path).items() if k.startswith(start)}
    state = {}
    for name, value in module.state_dict().items():
        public = name
        for pattern, there in LAYERS:
            public = re.sub(pattern, there, f".{public}")[1:]
        if prefix in RESAMPLING:
            public = re.sub(r"^(space|time)\.", RESAMPLING[prefix], public)
        state[name] = found.pop(public).view(value.shape)
    assert not found, sorted(found)
    module.load_state_dict(state)
    return module.eval()


@runs("MakeAVideoBlocks")
def blocks(golden: Golden) -> dict[str, Tensor]:
    """The blocks on clips, on clips without time, and on images, which are clips of one frame without time."""
    c, x, image, c_time = golden.config, golden["x"], golden["image"][:, :, None], golden["time_emb"]
    dim, out = c["dim"], c["dim_out"]
    conv = filled(PseudoConv3d(dim, out, c["kernel_size"], c["temporal_kernel_size"]), golden, "conv.")
    attn = filled(SpaceTimeAttention(dim, c["heads"], c["dim_head"]), golden, "attn.")
    resnet = filled(ResidualBlock(dim, out, c["time_dim"]), golden, "resnet.")
    down = filled(Halving(dim, halves_time=True), golden, "down.")
    up = filled(Doubling(dim, halves_time=True), golden, "up.")
    space, time = attn.spatial_attn.bias, attn.temporal_attn.bias
    assert space is not None and time is not None
    return {
        "conv_video": conv(x),
        "conv_notime": conv(x, time=False),
        "conv_image": conv(image, time=False)[:, :, 0],
        "attn_video": attn(x),
        "attn_notime": attn(x, time=False),
        "attn_image": attn(image, time=False)[:, :, 0],
        "space_bias": space(x.shape[3:]),
        "time_bias": time(x.shape[2:3]),
        "resnet_video": resnet(x, c_time),
        "resnet_image": resnet(image, c_time, time=False)[:, :, 0],
        "down_video": down(x),
        "down_notime": down(x, time=False),
        "up_video": up(x),
        "up_image": up(image, time=False)[:, :, 0],
    }


@runs("MakeAVideoUnet")
def unet(golden: Golden) -> dict[str, Tensor]:
    """The network through the importer."""
    model = golden.load()
    assert isinstance(model, SpaceTimeUnet)
    x, t, none = golden["x"], golden["timestep"].float(), Conditions()
    return {
        "out_video": model(x, t, none),
        "out_notime": model.predict(x, model.embedding(t, none), none, None, time=False),
        "out_image": model(golden["image"][:, :, None], t, none)[:, :, 0],
    }
