"""Adapters on diffusers' own classes, W + weight * alpha / r * B A by their own layers' names, and on ours: the same.

diffusers puts adapters on through peft, whose layers compute this equation (peft's documentation of LoRA, `scaling`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinolab.checkpoints import load
from kinolab.checkpoints.adapters import LowRank, native_changes, read_adapter, write_adapter
from kinolab.denoisers import Conditions
from kinolab.layers.lora import change_layers
from tests.closeness import NETWORK, assert_close

pytestmark = pytest.mark.slow  # it imports diffusers

UNET: dict[str, Any] = {
    "block_out_channels": (8, 16), "layers_per_block": 1, "cross_attention_dim": 12, "attention_head_dim": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "norm_num_groups": 4, "sample_size": 8,
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
CLASSES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sd1": ("UNet2DConditionModel", "unet", UNET),
    "sd2": ("UNet2DConditionModel", "unet", {**UNET, "use_linear_projection": True}),
    "sd3": (
        "SD3Transformer2DModel", "transformer",
        {
            "sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 2,
            "attention_head_dim": 12, "num_attention_heads": 2, "joint_attention_dim": 12, "caption_projection_dim": 24,
            "pooled_projection_dim": 7, "pos_embed_max_size": 6, "dual_attention_layers": (0,), "qk_norm": "rms_norm",
        },
    ),
    "latte": (
        "LatteTransformer3DModel", "transformer",
        {
            "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 8, "num_layers": 1,
            "cross_attention_dim": 24, "caption_channels": 12, "sample_size": 8, "patch_size": 2, "video_length": 3,
            "attention_bias": True, "activation_fn": "gelu-approximate", "norm_type": "ada_norm_single",
            "norm_elementwise_affine": False, "norm_eps": 1e-6,
        },
    ),
}  # fmt: skip
"""Name -> diffusers' class, what a pipeline calls it, and its arguments."""


def of_theirs(name: str, model: Any, z: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
    t = torch.tensor([7, 800])
    if name == "sd3":
        return model(z[:, :, 0], text, pooled, t, return_dict=False)[0]
    found = model(z if name == "latte" else z[:, :, 0], t, encoder_hidden_states=text, return_dict=False)[0]
    return found


def of_ours(name: str, model: Any, z: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
    told = Conditions(text=text, pooled=pooled) if name == "sd3" else Conditions(text=text)
    found = model(z if name == "latte" else z[:, :, :1], torch.tensor([7.0, 800.0]), told)
    return found if name == "latte" else found[:, :, 0]


def random_adapter(model: Any) -> dict[str, LowRank]:
    """A change of every linear layer and convolution of diffusers' model, by its own names."""
    layers: dict[str, LowRank] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            out, *rest = layer.weight.shape
            # Latte's patches are a convolution, as SD 1's projections; ranks differ by layer.
            rank = 1 + len(layers) % 3
            layers[name] = LowRank(0.2 * torch.randn(rank, *rest), 0.2 * torch.randn(out, rank), 1.5)
    return layers


@pytest.mark.parametrize("form", ["peft", "diffusers", "kohya"])
@pytest.mark.parametrize("name", CLASSES)
@torch.no_grad()
def test_diffusers_class_with_the_plain_equation_computes_the_same(
    tmp_path: Path, diffusers: Any, name: str, form: Any
) -> None:
    kind, part, arguments = CLASSES[name]
    torch.manual_seed(0)
    theirs = getattr(diffusers, kind)(**arguments).eval()
    for parameter in theirs.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path / "base")
    z, text, pooled = torch.randn(2, 4, 3, 8, 8), torch.randn(2, 5, 12), torch.randn(2, 7)
    before = of_theirs(name, theirs, z, text, pooled)
    layers = random_adapter(theirs)
    assert len(layers) > 20
    for layer, change in layers.items():
        weight = theirs.get_submodule(layer).weight
        alpha = change.alpha
        assert alpha is not None
        delta = change.up @ change.down.flatten(1)
        weight.add_(0.7 * alpha / len(change.down) * delta.reshape(weight.shape))
    path = tmp_path / ("adapter" if form == "peft" else "adapter.safetensors")
    write_adapter(path, layers, form, part)
    put: Callable[[bool], Any] = lambda merged: changed(load(tmp_path / "base"), path, merged)  # noqa: E731
    expected = of_theirs(name, theirs, z, text, pooled)
    assert (expected - before).abs().max() > 0.1
    for merged in (True, False):
        assert_close(of_ours(name, put(merged), z, text, pooled), expected, within=NETWORK)


def changed(model: Any, path: Path, merged: bool) -> Any:
    """The model with 0.7 of an adapter."""
    changes = native_changes(model, read_adapter(path))
    change_layers(model, {name: change.times(0.7) for name, change in changes.items()}, merged=merged)
    return model
