"""What is trained of a denoiser: what an image model has not, low-rank changes, and their numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kinolab import denoisers
from kinolab.denoisers import Conditions
from kinolab.denoisers.trained import LowRank, trainable_parameters
from kinolab.errors import InputError
from kinolab.layers.lora import merge_lora
from tests.closeness import assert_close, differs

SMALL: dict[str, Any] = {"hidden_size": 16, "depth": 2, "num_heads": 2, "input_size": 4, "num_frames": 3, "text_dim": 8}
CONFIGS: dict[str, Any] = {
    "latte": denoisers.LatteConfig(**SMALL),
    "latte joint": denoisers.LatteConfig(**SMALL, variant="joint_block"),
    "vdt": denoisers.VdtConfig(**SMALL),
    "mmdit": denoisers.MmditConfig(**SMALL, attention="2d+3d", temporal_patch=2, fps_condition=True),
    "vdm": denoisers.VdmConfig(
        dim=8,
        dim_mults=(1, 2),
        num_heads=2,
        head_dim=4,
        spatial_head_dim=4,
        input_kernel=3,
        input_size=4,
        num_frames=3,
        text_dim=8,
    ),
}
TEMPORAL = {
    "latte": ("blocks.1.",),
    "latte joint": (".attn_temp.", ".norm_temp."),
    "vdt": (".temporal_norm1.", ".temporal_attn.", ".temporal_fc."),
    "mmdit": (".attn_global.", "pair_embedder.", "pair_linear.", "fps_embedder."),
    "vdm": ("temporal_attn.", "relative_bias."),
}


def build(name: str) -> Any:
    model = denoisers.build(CONFIGS[name]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def run(model: Any) -> torch.Tensor:
    source = torch.Generator().manual_seed(1)
    z, text = torch.randn(2, 4, 3, 4, 4, generator=source), torch.randn(2, 5, 8, generator=source)
    with torch.no_grad():
        return model(z, torch.tensor([3.0, 900.0]), Conditions(text=text))


@pytest.mark.parametrize("name", CONFIGS)
def test_temporal_trains_what_an_image_model_has_not(name: str) -> None:
    model = build(name)
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    expected = {n for n in sizes if any(part in n for part in TEMPORAL[name])}
    count = trainable_parameters(model, "temporal")
    assert {n for n, p in model.named_parameters() if p.requires_grad} == expected
    assert (count.model, count.trained, count.lora) == (sum(sizes.values()), sum(sizes[n] for n in expected), 0)
    assert count.temporal == count.trained and f"{count.trained:,} of {count.model:,}" in str(count)
    assert trainable_parameters(model, "all").trained == count.model


@pytest.mark.parametrize("name", CONFIGS)
def test_lora_changes_nothing_at_first_and_merges_into_the_weights(name: str) -> None:
    model = build(name)
    before, base, plain = run(model), model.state_dict(), build(name)
    count = trainable_parameters(model, "lora", LowRank(3))
    assert_close(run(model), before)
    changed = {n for n, p in model.named_parameters() if p.requires_grad}
    added = {n for n in changed if n.endswith((".lora_up", ".lora_down"))}
    assert count.lora == sum(model.get_parameter(n).numel() for n in added) > 0
    assert all(any(part in n for part in TEMPORAL[name]) for n in changed - added)
    assert {n.rsplit(".", 2)[-2] for n in added} >= {"qkv", "proj"}
    assert set(base) == {n for n in model.state_dict() if n not in added}
    with torch.no_grad():
        for n in added:
            model.get_parameter(n).normal_(std=0.3)
    plain.load_state_dict(merge_lora(model.state_dict()))
    assert (run(model) - before).abs().max() > 1e-3
    assert_close(run(plain), run(model))


def test_a_model_without_time_of_its_own_is_told_what_to_do() -> None:
    image = denoisers.build(denoisers.MmditConfig(**SMALL, attention="3d"))
    with pytest.raises(InputError, match="this Mmdit has none: use all or lora"):
        trainable_parameters(image, "temporal")
    assert trainable_parameters(image, "lora").temporal == 0


def test_parameters_are_trained_by_names_with_stars() -> None:
    model = build("latte")
    count = trainable_parameters(model, "named", names=["blocks.*.mlp.*", "blocks.0.attn.qkv.bias"])
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    expected = {n for n, _ in model.named_parameters() if n.startswith("blocks.") and ".mlp." in n}
    assert trained == expected | {"blocks.0.attn.qkv.bias"}
    assert count.trained == sum(model.get_parameter(name).numel() for name in trained) and count.lora == 0
    assert trained | set(count.kept) == {name for name, _ in model.named_parameters()}
    with pytest.raises(InputError, match=r"trained_names: blocks\.7\.\* is no parameter of the denoiser"):
        trainable_parameters(model, "named", names=["blocks.*.mlp.*", "blocks.7.*"])


@pytest.mark.parametrize("mode", ["named", "adapter"])
def test_the_queries_of_a_joint_projection_are_trained_alone(mode: Any) -> None:
    torch.manual_seed(0)
    model = denoisers.build(CONFIGS["mmdit"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pattern = "*.x_block.attn.qkv"
    names = [f"{pattern}.*:queries"] if mode == "named" else []
    count = trainable_parameters(model, mode, LowRank(2, None, (f"{pattern}:queries",)), names)
    D = SMALL["hidden_size"]
    assert count.trained == 2 * (D * D + D if mode == "named" else 2 * D + 2 * D)  # two blocks
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.0)
    z, t = torch.randn(2, 4, 3, 4, 4), torch.tensor([100.0, 900.0])
    for _ in range(2):
        optimizer.zero_grad()
        model(z, t, Conditions(text=torch.randn(2, 3, 8))).square().mean().backward()
        optimizer.step()
    after = merge_lora(model.state_dict())
    for name, value in before.items():
        changed = differs(after[name], value)
        queries = ".x_block.attn.qkv." in name and (mode == "named" or name.endswith("weight"))
        assert bool(changed[:D].any()) == queries and not changed[D:].any(), name


def test_queries_are_asked_of_joint_projections_only() -> None:
    model = denoisers.build(CONFIGS["mmdit"])
    with pytest.raises(
        InputError, match=r"blocks\.0\.x_block\.attn\.proj, which has no keys and values: leave :queries"
    ):
        trainable_parameters(model, "named", names=["*.x_block.attn.proj.*:queries"])
    with pytest.raises(InputError, match="which has no keys and values"):
        trainable_parameters(model, "adapter", LowRank(2, None, ("*.x_block.mlp.fc1:queries",)))
