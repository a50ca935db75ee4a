"""Control networks beside an MMDiT: where their blocks are added, and diffusers' class in both directions."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab.checkpoints import inspect, load, save
from kinolab.contracts.conditions import Conditions, Value
from kinolab.contracts.options import ForwardOptions
from kinolab.denoisers import Mmdit, MmditConfig, Unet, UnetConfig
from kinolab.denoisers.controlnet_mmdit import ControlNetMmdit, ControlNetMmditConfig, spread_over
from kinolab.errors import InputError
from kinolab.models.controlnet_mmdit import ControlNetMmditPart, ControlNetMmditPartConfig, mmdit_control_part
from kinolab.models.part import WithParts
from tests.closeness import NETWORK, STORED, assert_close, assert_same
from tests.models.test_controlnet import random
from tests.tiny_unets import SMALL

PUBLIC: dict[str, Any] = {
    "hidden_size": 16, "num_heads": 2, "in_channels": 4, "input_size": 8, "num_frames": 1, "attention": "2d",
    "temporal_position": "none", "text_dim": 6, "pooled_dim": 5, "pooled_norm": False, "pos_embed_max_size": 6,
    "null": "prompt",
}  # fmt: skip
CLASS: dict[str, Any] = {
    "sample_size": 8, "patch_size": 2, "in_channels": 4, "attention_head_dim": 8, "num_attention_heads": 2,
    "joint_attention_dim": 6, "caption_projection_dim": 16, "pooled_projection_dim": 5, "out_channels": 4,
    "pos_embed_max_size": 6,
}  # fmt: skip


def mmdit(**changes: Any) -> Mmdit:
    return random(Mmdit(MmditConfig(**{**PUBLIC, "depth": 4, **changes})))


def told(frames: int = 2) -> tuple[Tensor, Tensor, Conditions, Tensor]:
    g = torch.Generator().manual_seed(1)
    z, hint = (torch.randn(2, 4, frames, 8, 8, generator=g) for _ in range(2))
    text, pooled = torch.randn(2, 3, 6, generator=g), torch.randn(2, 5, generator=g)
    return z, torch.tensor([300.0, 800.0]), Conditions(text=text, pooled=pooled), hint


def hinted(conditions: Conditions, hint: Tensor) -> Conditions:
    return conditions.told(Conditions.of({"control": Value("field", hint)}))


def part(denoiser: Mmdit, **fields: Any) -> ControlNetMmditPart:
    return ControlNetMmditPart(ControlNetMmditPartConfig(**fields), denoiser)


@pytest.mark.parametrize("attention", ["2d", "3d"])
@torch.no_grad()
def test_an_untrained_one_leaves_the_model_as_it_is(attention: str) -> None:
    denoiser, (z, t, conditions, hint) = mmdit(attention=attention, num_frames=2), told()
    made = part(denoiser)
    assert len(made.net.joint_blocks) == 2
    model = WithParts(denoiser, {"control": made}).eval()
    plain = denoiser(z, t, conditions)
    assert_same(model(z, t, hinted(conditions, hint)), plain)
    random(made, 3)
    assert (model(z, t, hinted(conditions, hint)) - plain).abs().amax() > 1e-3


@torch.no_grad()
def test_the_copy_computes_what_the_models_first_blocks_do() -> None:
    denoiser, (z, t, conditions, hint) = mmdit(), told()
    made, seen = part(denoiser, depth=3).net, list[Tensor]()
    for parameter in made.controlnet_blocks.parameters():
        if parameter.ndim == 2:
            parameter.copy_(torch.eye(16))
    for block in denoiser.joint_blocks[:3]:
        block.register_forward_hook(lambda _, args, out: seen.append(out[0]))
    denoiser(z, t, conditions)
    for ours, theirs in zip(made.read(z, t, conditions, hint), seen, strict=True):
        assert_close(ours, theirs, NETWORK)


def test_blocks_are_spread_over_the_model_but_for_its_last() -> None:
    two = [torch.tensor(0.0), torch.tensor(1.0)]
    assert {i: int(v) for i, v in spread_over(two, 4).items()} == {0: 0, 1: 0, 2: 1}
    assert {i: int(v) for i, v in spread_over(two, 5).items()} == {0: 0, 1: 0, 2: 0, 3: 1}
    assert {i: int(v) for i, v in spread_over(two[:1], 1).items()} == {0: 0}


def test_other_models_are_refused() -> None:
    with pytest.raises(InputError, match="copy of an MMDiT's blocks, and this denoiser is of kind unet"):
        ControlNetMmditPart(ControlNetMmditPartConfig(), Unet(UnetConfig(**SMALL)))
    with pytest.raises(InputError, match="depth 5: the model has 4 blocks"):
        part(mmdit(), depth=5)
    other = ControlNetMmdit(ControlNetMmditConfig(**{**PUBLIC, "text_dim": 7, "depth": 2, "hint_channels": 4}))
    with pytest.raises(InputError, match="another MMDiT than the model's: text_dim 7 against 6"):
        mmdit_control_part(other, mmdit(), port="control")


@pytest.fixture(scope="module")
def classes() -> Any:
    """diffusers; its import warns of much that is not about us."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("diffusers")


@torch.no_grad()
def of_theirs(net: Any) -> list[Tensor]:
    z, t, conditions, hint = told(1)
    text, pooled = conditions.text, conditions.pooled
    return net(z[:, :, 0], hint[:, :, 0], 1.0, text, pooled, t, return_dict=False)[0]


@torch.no_grad()
def of_ours(net: ControlNetMmdit) -> list[Tensor]:
    z, t, conditions, hint = told(1)
    return [value[:, 0] for value in net.read(z, t, conditions, hint)]


@pytest.mark.parametrize("more", [{}, {"qk_norm": "rms_norm", "dual_attention_layers": (0,)}])
def test_a_folder_of_diffusers_loads_and_computes_the_same(tmp_path: Path, classes: Any, more: dict[str, Any]) -> None:
    theirs = random(classes.SD3ControlNetModel(**CLASS, num_layers=2, force_zeros_for_pooled_projection=False, **more))
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    assert inspect(tmp_path).format == "controlnet_sd3" and not inspect(tmp_path).problems
    for mine, his in zip(of_ours(ours), of_theirs(theirs), strict=True):
        assert_close(mine, his, STORED)


@torch.no_grad()
def test_beside_the_transformer_it_does_what_diffusers_does(tmp_path: Path, classes: Any) -> None:
    net = random(classes.SD3ControlNetModel(**CLASS, num_layers=2, force_zeros_for_pooled_projection=True))
    whole = random(classes.SD3Transformer2DModel(**CLASS, num_layers=5))
    net.save_pretrained(tmp_path / "net")
    whole.save_pretrained(tmp_path / "whole")
    z, t, conditions, hint = told(1)
    nothing = torch.zeros(2, 5)  # this kind was trained without the pooled prompt
    added = net(z[:, :, 0], hint[:, :, 0], 0.7, conditions.text, nothing, t, return_dict=False)[0]
    text, pooled = conditions.text, conditions.pooled
    expected = whole(z[:, :, 0], text, pooled, t, block_controlnet_hidden_states=added, return_dict=False)[0]
    denoiser, ours = load(tmp_path / "whole"), load(tmp_path / "net")
    model = WithParts(denoiser, {"control": mmdit_control_part(ours, denoiser, port="control", scale=0.7)}).eval()
    assert_close(model(z, t, hinted(conditions, hint), ForwardOptions())[:, :, 0], expected, STORED)


def test_a_folder_that_we_write_computes_the_same_in_diffusers(tmp_path: Path, classes: Any) -> None:
    ours = random(ControlNetMmdit(ControlNetMmditConfig(**PUBLIC, depth=2, hint_channels=4)))
    save(ours, tmp_path, "controlnet_sd3")
    theirs = classes.SD3ControlNetModel.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    for mine, his in zip(of_ours(ours), of_theirs(theirs), strict=True):
        assert_close(his, mine, STORED)
    back = load(tmp_path)
    assert back.config == ours.config
    assert_same(dict(back.state_dict()), dict(ours.state_dict()))
