"""Kinds of Tune-A-Video."""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from torch import Tensor

from kinolab.contracts.reach import Reach
from kinolab.denoisers import Conditions, TuneAVideo
from kinolab.denoisers.tuneavideo import TemporalSelfAttention
from kinolab.layers.slots import Clip, Place
from kinolab.layers.unet_attention import QkvAttention, TransformerBlock
from tests.golden_kinds import WEIGHTS, Golden, runs
from tests.golden_kinds.unet import heads, on_clips


@runs("TavUNet")
def tuneavideo_unet(golden: Golden) -> dict[str, Tensor]:
    """Its UNet3DConditionModel."""
    model = golden.load(**heads(golden.config))
    assert isinstance(model, TuneAVideo) and model.config.norm_scope == "clip"
    return {"out": on_clips(model, golden)}


def weights_of(golden: Golden) -> dict[str, Tensor]:
    """The weights of a file of one block or layer, by their names."""
    stored = load_file(golden.path)
    return {name.removeprefix(WEIGHTS): value.float() for name, value in stored.items() if name.startswith(WEIGHTS)}


def clip_of(golden: Golden, frames: int, text: Tensor | None = None) -> Clip:
    """What a block is told of clips of so many frames."""
    batch, lists = golden.config["_batch"], Reach("first_previous").lists(frames)
    return Clip(batch, frames, torch.zeros(batch, 1, 1), Conditions(), text=text, lists=lists)


@runs("TavBlock")
def tuneavideo_block(golden: Golden) -> dict[str, Tensor]:
    """Its BasicTransformerBlock; all frames of a clip have one prompt."""
    config, state = golden.config, weights_of(golden)
    D, N, d, T = config["dim"], config["heads"], config["dim_head"], config["_frames"]
    block = TransformerBlock(D, N, d, config["cross_attention_dim"])
    over_time = TemporalSelfAttention(Place("middle", 0, 0, D, N, d, attends=True), "zero")
    block.load_state_dict({name: value for name, value in state.items() if "_temp." not in name})
    over_time.load_state_dict({name: value for name, value in state.items() if "_temp." in name})
    text = golden["encoder_hidden_states"].unflatten(0, (-1, T))
    assert torch.equal(text, text[:, :1].expand_as(text))
    clip = clip_of(golden, T, text[:, 0])
    x = golden["x"].unflatten(0, (-1, T))  # (B, T, S, D)
    return {"out": over_time(block(x, clip), clip).flatten(0, 1)}


@runs("TavAttn")
def tuneavideo_attention(golden: Golden) -> dict[str, Tensor]:
    """Its SparseCausalAttention."""
    config = golden.config
    attention = QkvAttention(config["query_dim"], config["heads"], config["dim_head"])
    attention.load_state_dict(weights_of(golden))
    T = config["_frames"]
    x = golden["x"].unflatten(0, (-1, T))
    return {"out": attention.over_places(x, Reach("first_previous").lists(T)).flatten(0, 1)}
