"""Latte from image DiT weights: before training, every frame is what the image model gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from kinolab.denoisers import Conditions, Latte, LatteConfig
from kinolab.denoisers.image_init import ImageInitConfig, init_from_image
from kinolab.errors import InputError
from tests.closeness import STORED, assert_close

ROTARY = {"temporal_position": "rotary"}
SILENT = ImageInitConfig(temporal="zero")


def dit() -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Config, weights and the other tensors (x, t, y, out) of the reference image model."""
    with safe_open(Path(__file__).parents[1] / "golden" / "dit.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata()["config"])
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    return config, weights, tensors


def make(**fields: Any) -> tuple[Latte, dict[str, Tensor], dict[str, Tensor]]:
    """A random Latte of the image model's width, with twice its depth where half of the blocks are temporal."""
    config, weights, tensors = dit()
    interleaved = fields.get("variant", "interleaved") in ("interleaved", "late_fusion")
    config = {**config, "depth": config["depth"] * (2 if interleaved else 1), "num_frames": 4, **fields}
    torch.manual_seed(0)
    latte = Latte(LatteConfig(**{"learned_variance": True, **config}))
    for parameter in latte.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return latte.eval(), weights, tensors


@pytest.mark.parametrize("variant", ["interleaved", "late_fusion", "joint_block"])
def test_every_frame_is_what_the_image_model_gives(variant: str) -> None:
    latte, weights, tensors = make(variant=variant, num_frames=2, **ROTARY)
    init_from_image(latte, weights, SILENT)
    # Two videos whose frames are the reference's two images, each with the time and class of one of them.
    video = tensors["x"].transpose(0, 1)[None].repeat(2, 1, 1, 1, 1)
    with torch.no_grad():
        out = latte(video, tensors["t"].float(), Conditions(label=tensors["y"]))
    for i in range(2):
        assert_close(out[i, :, i], tensors["out"][i], within=STORED)


def test_tubelets_of_a_still_video_give_the_image() -> None:
    latte, weights, tensors = make(patch_embedding="compression", temporal_patch=2, **ROTARY)
    init_from_image(latte, weights, SILENT)
    still = tensors["x"][:, :, None].expand(-1, -1, 4, -1, -1)
    with torch.no_grad():
        out = latte(still, tensors["t"].float(), Conditions(label=tensors["y"]))
    assert_close(out, tensors["out"][:, :, None].expand_as(out), within=STORED)


def test_a_prompt_changes_nothing_before_training() -> None:
    _, weights, tensors = make()
    config = LatteConfig(hidden_size=48, depth=6, num_heads=3, input_size=8, num_frames=1, num_classes=7, text_dim=5)
    latte = Latte(config.model_copy(update={**ROTARY, "learned_variance": True}))
    init_from_image(latte, weights)
    conditions = Conditions(label=tensors["y"], text=torch.randn(2, 3, 5))
    with torch.no_grad():
        out = latte(tensors["x"][:, :, None], tensors["t"].float(), conditions)
    assert_close(out[:, :, 0], tensors["out"], within=STORED)


def test_without_learned_variance_the_prediction_is_kept() -> None:
    latte, weights, tensors = make(num_frames=1, learned_variance=False, **ROTARY)
    init_from_image(latte, weights)
    with torch.no_grad():
        out = latte(tensors["x"][:, :, None], tensors["t"].float(), Conditions(label=tensors["y"]))
    assert_close(out[:, :, 0], tensors["out"][:, :4], within=STORED)


def test_other_classes_drop_the_label_embedding() -> None:
    latte, weights, _ = make(num_classes=3)
    report = init_from_image(latte, weights)
    assert not latte.y_embedder.embedding_table.weight.any()
    assert "y_embedder.embedding_table.weight" in report.fresh
    assert report.dropped == ("y_embedder.embedding_table.weight",)


def test_other_channels_keep_their_own_patches_and_head() -> None:
    latte, weights, _ = make(in_channels=8)
    before = latte.x_embedder.proj.weight.clone()
    report = init_from_image(latte, weights)
    assert torch.equal(latte.x_embedder.proj.weight, before)
    expected = {f"{name}.{part}" for name in ("x_embedder.proj", "final_layer.linear") for part in ("weight", "bias")}
    assert expected <= set(report.fresh) and expected <= set(report.dropped)


def test_all_copies_block_by_block() -> None:
    latte, weights, _ = make(depth=2)
    two = {k: v for k, v in weights.items() if not k.startswith("blocks.2.")}
    init_from_image(latte, two, ImageInitConfig(blocks="all", temporal="copy"))
    state = latte.state_dict()
    assert all(torch.equal(state[k], v) for k, v in two.items() if k.startswith("blocks."))


@pytest.mark.parametrize("variant", ["interleaved", "late_fusion", "joint_block"])
def test_copy_gives_time_the_weights_of_space(variant: Any) -> None:
    latte, weights, _ = make(variant=variant)
    init_from_image(latte, weights, ImageInitConfig(temporal="copy"))
    state = latte.state_dict()
    temporal = {"interleaved": "blocks.3.attn", "late_fusion": "blocks.4.attn", "joint_block": "blocks.1.attn_temp"}
    assert torch.equal(state[f"{temporal[variant]}.qkv.weight"], weights["blocks.1.attn.qkv.weight"])


def test_split_heads_start_without_their_temporal_half() -> None:
    config, weights, _ = dit()
    del config
    latte = Latte(LatteConfig(hidden_size=48, depth=3, num_heads=2, input_size=8, num_classes=7, variant="split_heads"))
    init_from_image(latte, weights, SILENT)
    projection = latte.state_dict()["blocks.1.attn.proj.weight"]
    assert not projection[:, 24:].any()
    assert torch.equal(projection[:, :24], weights["blocks.1.attn.proj.weight"][:, :24])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 4}, "3 blocks, this Latte 2"),
        ({"hidden_size": 24}, "need"),
        ({"adaln": "single"}, "adaln block"),
        ({"injection": "all_tokens"}, "injection adaln"),
    ],
)
def test_models_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    latte, weights, _ = make(**fields)
    with pytest.raises(InputError, match=message):
        init_from_image(latte, weights)


def test_weights_of_something_else_are_refused() -> None:
    latte, _, _ = make()
    with pytest.raises(InputError, match="weights of a DiT"):
        init_from_image(latte, {"conv.weight": torch.zeros(1)})
