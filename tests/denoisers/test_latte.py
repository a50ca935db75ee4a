"""Latte: parity with the public class, and what the paper says about who sees whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch import Tensor

from kinolab.config import load_config
from kinolab.denoisers import Conditions, Latte, LatteConfig, build
from kinolab.errors import InputError
from tests.closeness import NETWORK, STORED, assert_close, differs

GOLDEN = Path(__file__).parents[1] / "golden"
VARIANTS = ("interleaved", "late_fusion", "joint_block", "split_heads")
KINDS: list[dict[str, Any]] = [
    *({"variant": v} for v in VARIANTS),
    *({"variant": v, "injection": "all_tokens"} for v in VARIANTS),
    {"variant": "interleaved", "adaln": "single", "temporal_position": "rotary", "qk_norm": True},
    {"variant": "joint_block", "adaln": "single", "temporal_position": "rotary"},
    {"variant": "split_heads", "temporal_position": "rotary"},
]
COMPRESSED: dict[str, Any] = {"patch_embedding": "compression", "temporal_patch": 2}
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))


def make(seed: int = 0, **fields: Any) -> Latte:
    """A tiny Latte whose every parameter is random, zero-initialised ones included."""
    base = {"hidden_size": 24, "depth": 2, "num_heads": 2, "input_size": 4, "num_frames": 4, "num_classes": 3}
    torch.manual_seed(seed)
    latte = Latte(LatteConfig.model_validate({**base, "text_dim": 6, "pooled_dim": 5, **fields}))
    for parameter in latte.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return latte.eval()


def given(batch: int = 2, seed: int = 1) -> tuple[Tensor, Tensor, Conditions]:
    """Latents of 4 frames, times and conditions of every sort."""
    g = torch.Generator().manual_seed(seed)
    mask = torch.arange(5) < torch.tensor([[5], [3]])[:batch]
    text, pooled = torch.randn(batch, 5, 6, generator=g), torch.randn(batch, 5, generator=g)
    conditions = Conditions(torch.arange(batch), text, mask, pooled)
    return torch.randn(batch, 4, 4, 4, 4, generator=g), torch.tensor([3.0, 700.0])[:batch], conditions


def changed(before: Tensor, after: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Where two results differ, over the axes that are not summed up."""
    return differs(after, before).amax(dim=dims)


def golden(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        return json.loads(file.metadata()["config"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def golden_model(name: str) -> tuple[Latte, dict[str, Tensor], dict[str, Tensor]]:
    config, tensors = golden(name)
    classes = config.pop("num_classes") if config.pop("extras") == 2 else 0
    config.pop("num_classes", None)
    latte = Latte(LatteConfig(**config, num_classes=classes, learned_variance=True))
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    return latte, weights, tensors


@pytest.mark.parametrize("name", ["latte_class", "latte_uncond"])
def test_equals_the_public_class(name: str) -> None:
    latte, weights, tensors = golden_model(name)
    latte.load_state_dict(weights)
    label = tensors["y"] if latte.config.num_classes else None
    with torch.no_grad():
        out = latte(tensors["x"].transpose(1, 2), tensors["t"].float(), Conditions(label=label))
    assert_close(out.transpose(1, 2), tensors["out"], within=STORED)


def test_fixed_tables_are_the_public_ones_and_may_be_absent() -> None:
    latte, weights, _ = golden_model("latte_class")
    for name in ("pos_embed", "temp_embed"):
        assert_close(getattr(latte, name), weights.pop(name))
    latte.load_state_dict(weights)


@pytest.mark.parametrize(
    ("size", "millions"), [("S", 32.48), ("B", 129.54), ("L", 456.81), ("XL", 673.68)], ids=["S", "B", "L", "XL"]
)
def test_sizes_have_the_papers_parameter_counts(size: str, millions: float) -> None:
    config = load_config(LatteConfig, {"size": size, "learned_variance": True})
    with torch.device("meta"):
        count = sum(p.numel() for p in Latte(config).parameters())
    assert abs(count / 1e6 - millions) < 0.01 * millions


@kinds
def test_every_kind_has_a_gradient_for_every_parameter(kind: dict[str, Any]) -> None:
    latte = make(learned_variance=True, **kind).train()
    z, t, conditions = given()
    out = latte(z, t, conditions.with_null(torch.tensor([False, True])))
    assert out.shape == (2, 8, 4, 4, 4)
    out.square().mean().backward()
    for name, parameter in latte.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_tubelets_give_back_every_frame(variant: str) -> None:
    latte = make(variant=variant, **COMPRESSED)
    z, t, conditions = given()
    out = latte(z, t, conditions)
    assert out.shape == z.shape
    assert (out[:, :, 0] - out[:, :, 1]).abs().max() > 1e-3


@kinds
def test_a_new_model_predicts_zero(kind: dict[str, Any]) -> None:
    z, t, conditions = given()
    fields = {**make(**kind).config.model_dump(), **kind}
    assert torch.count_nonzero(build(LatteConfig(**fields))(z, t, conditions)) == 0


@pytest.mark.parametrize("adaln", ["block", "single"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_blocks_of_a_new_model_are_the_identity(variant: Any, adaln: Any) -> None:
    config = LatteConfig(hidden_size=24, depth=2, num_heads=2, input_size=4, num_frames=4, variant=variant, adaln=adaln)
    latte = Latte(config)
    torch.nn.init.normal_(latte.final_layer.linear.weight)
    z, t, _ = given()
    x = latte.x_embedder(z) + latte.pos_embed + latte.temp_embed[:, :, None]
    expected = latte.final_layer(x, latte.t_embedder(t)[:, None])
    expected = expected.view(2, 4, 2, 2, 2, 2, 4).permute(0, 6, 1, 2, 4, 3, 5).reshape(z.shape)
    assert_close(latte(z, t, Conditions()), expected)


@pytest.mark.parametrize("variant", ["interleaved", "late_fusion"])
def test_spatial_blocks_see_one_frame_and_temporal_blocks_one_place(variant: str) -> None:
    z, t, conditions = given()
    other = z.clone()
    other[:, :, 1, :2, :2] += 1  # one patch of frame 1
    for role, frames, places in (("spatial", [1], 4), ("temporal", [0, 1, 2, 3], 1)):
        latte = make(variant=variant)
        for name, block in zip(latte.config.roles, latte.blocks, strict=True):
            if name != role:  # silence the other kind: with a zero modulation it adds nothing but the prompt
                for parameter_name, parameter in block.named_parameters():
                    if parameter_name.startswith("adaLN_modulation"):
                        torch.nn.init.zeros_(parameter)
        different = changed(latte(z, t, conditions), latte(other, t, conditions), (0, 1)).unflatten(1, (2, 2))
        different = different.unflatten(3, (2, 2)).amax(dim=(2, 4)).flatten(1)
        assert [i for i in range(4) if different[i].any()] == frames
        assert int(different[1].sum()) == places


@kinds
def test_without_positions_frames_can_be_reordered(kind: dict[str, Any]) -> None:
    if kind.get("temporal_position") == "rotary":
        kind = {**kind, "temporal_position": "absolute"}
    latte = make(**kind)
    latte.temp_embed.zero_()
    z, t, conditions = given()
    order = torch.tensor([2, 0, 3, 1])
    assert_close(latte(z[:, :, order], t, conditions), latte(z, t, conditions)[:, :, order], within=0.001)


@kinds
def test_positions_tell_frames_apart(kind: dict[str, Any]) -> None:
    latte, (z, t, conditions) = make(**kind), given()
    order = torch.tensor([2, 0, 3, 1])
    moved = latte(z[:, :, order], t, conditions) - latte(z, t, conditions)[:, :, order]
    assert moved.abs().max() > 1e-4


@kinds
def test_single_images_and_video_do_not_see_each_other(kind: dict[str, Any]) -> None:
    latte, (z, t, conditions) = make(**{"num_frames": 2, **kind}), given()
    with torch.no_grad():
        joint = latte(z, t, conditions.replace(image_frames=2))
        video = latte(z[:, :, :2], t, conditions)
        images = [latte(z[:, :, i : i + 1], t, conditions.replace(image_frames=1)) for i in (2, 3)]
    assert_close(joint, torch.cat([video, *images], dim=2), within=0.001)


@kinds
def test_single_images_may_have_their_own_conditions(kind: dict[str, Any]) -> None:
    latte, (z, t, conditions) = make(**{"num_frames": 3, **kind}), given()
    other = Conditions(torch.tensor([2, 3]), *(getattr(given(seed=5)[2], k) for k in ("text", "text_mask", "pooled")))
    both: dict[str, Any] = {
        k: torch.stack([getattr(conditions, k), getattr(other, k)], 1) for k in ("label", "text", "text_mask")
    }
    null, pooled = torch.tensor([False, True]), [c.pooled for c in (conditions, other) if c.pooled is not None]
    joined = Conditions(**both, pooled=torch.stack(pooled, 1), null=null)
    with torch.no_grad():
        joint = latte(z, t, joined.replace(image_frames=1))
        video = latte(z[:, :, :3], t, conditions.with_null(null))
        image = latte(z[:, :, 3:], t, other.with_null(null).replace(image_frames=1))
    assert_close(joint, torch.cat([video, image], dim=2), within=0.001)


@kinds
def test_null_is_the_null_row_and_what_is_not_given(kind: dict[str, Any]) -> None:
    latte, (z, t, conditions) = make(**kind), given()
    with torch.no_grad():
        null = latte(z, t, conditions.all_null(2))
        nothing = latte(z, t, Conditions())
        mixed = latte(z, t, conditions.with_null(torch.tensor([True, False])))
        label = latte(z, t, Conditions(label=torch.tensor([3, 3])))
        full = latte(z, t, conditions)
    assert_close(null, nothing, within=NETWORK)
    assert_close(label, nothing)
    assert_close(mixed, torch.stack([null[0], full[1]]))
    assert (null - full).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-3


def test_padding_of_a_prompt_does_not_matter() -> None:
    latte, (z, t, conditions) = make(), given()
    assert conditions.text is not None and conditions.text_mask is not None
    noisy = torch.where(conditions.text_mask[..., None], conditions.text, 100.0)
    longer = (
        torch.cat([noisy, torch.full((2, 3, 6), 7.0)], 1),
        torch.cat([conditions.text_mask, torch.zeros(2, 3) > 0], 1),
    )
    result = latte(z, t, Conditions(conditions.label, *longer, conditions.pooled))
    assert_close(result, latte(z, t, conditions))


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_checkpointing_changes_no_gradient(variant: str) -> None:
    gradients = []
    for recompute in (False, True):
        latte = make(variant=variant, gradient_checkpointing=recompute).train()
        z, t, conditions = given()
        latte(z, t, conditions).square().mean().backward()
        gradients.append([p.grad for p in latte.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert (plain is None) == (recomputed is None)
        if plain is not None:
            assert_close(plain, recomputed)


@pytest.mark.parametrize("position", ["absolute", "rotary"])
def test_other_sizes_and_lengths_are_interpolated_with_a_warning(position: str) -> None:
    latte, (z, t, conditions) = make(temporal_position=position), given()
    with pytest.warns(UserWarning, match="trained on latents of 4 x 4, got 4 x 8"):
        assert latte(torch.cat([z, z], dim=4), t, conditions).shape == (2, 4, 4, 4, 8)
    with pytest.warns(UserWarning, match="trained on 4 latent frames, got 8"):
        assert latte(torch.cat([z, z], dim=2), t, conditions).shape == (2, 4, 8, 4, 4)


def test_bfloat16_autocast_stays_within_a_percent() -> None:
    torch.manual_seed(0)
    latte = Latte(LatteConfig(hidden_size=64, depth=8, num_heads=2, input_size=8, num_frames=4, num_classes=3))
    for parameter in latte.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    z, t = torch.randn(2, 4, 4, 8, 8), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        exact = latte(z, t, Conditions(label=torch.tensor([0, 1])))
        with torch.autocast("cpu", torch.bfloat16):
            fast = latte(z, t, Conditions(label=torch.tensor([0, 1]))).float()
    assert (fast - exact).norm() / exact.norm() < 0.01


@pytest.mark.parametrize(
    ("fields", "conditions", "message"),
    [
        ({"num_classes": 0}, Conditions(label=torch.tensor([0, 1])), "without label"),
        ({"text_dim": 0}, Conditions(text=torch.randn(2, 5, 6)), "without text"),
        ({"pooled_dim": 0}, Conditions(pooled=torch.randn(2, 5)), "without pooled"),
        ({}, Conditions(text=torch.randn(2, 5, 7)), "text of shape"),
        ({}, Conditions(label=torch.tensor([0])), "label of shape"),
        ({}, Conditions(label=torch.tensor([[0, 1], [0, 1]])), "label of shape"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(fields: dict[str, Any], conditions: Conditions, message: str) -> None:
    z, t, _ = given()
    with pytest.raises(InputError, match=message):
        make(**fields)(z, t, conditions)


def test_latents_that_do_not_fit_are_refused() -> None:
    z, t, conditions = given()
    with pytest.raises(InputError, match="multiples of 2"):
        make()(z[..., :3], t, conditions)
    with pytest.raises(InputError, match="multiple of 2 latent frames"):
        make(**COMPRESSED)(z[:, :, :3], t, conditions)
    with pytest.raises(InputError, match="image_frames from 0 to 4"):
        make()(z, t, conditions.replace(image_frames=5))
    with pytest.raises(InputError, match="tubelet"):
        make(**COMPRESSED)(z, t, conditions.replace(image_frames=2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 3}, "even depth"),
        ({"num_heads": 5}, "multiple of num_heads"),
        ({"variant": "split_heads", "num_heads": 3}, "even number of heads"),
        ({"temporal_patch": 2}, "temporal_patch must be 1"),
        ({"patch_embedding": "compression"}, "at least 2"),
        ({"input_size": 5}, "multiple of patch_size"),
        ({**COMPRESSED, "num_frames": 5}, "multiple of temporal_patch"),
    ],
)
def test_configs_that_cannot_be_built_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LatteConfig(**fields)


def test_size_fills_in_what_is_not_given() -> None:
    config = load_config(LatteConfig, {"size": "B", "depth": 4})
    assert (config.hidden_size, config.depth, config.num_heads) == (768, 4, 12)
    assert load_config(LatteConfig, config.model_dump()) == config
