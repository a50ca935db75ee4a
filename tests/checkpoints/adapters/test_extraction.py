"""An adapter from two models: exact at full rank, and the best of its rank below."""

from __future__ import annotations

import pytest
import torch

from kinolab.checkpoints.adapters import extract, layout_of
from kinolab.errors import InputError
from kinolab.layers.lora import low_rank
from tests.checkpoints.adapters.tiny import build, changed_by_hand, random_layers
from tests.closeness import assert_close


@pytest.mark.parametrize("shape", [(8, 5), (4, 9), (6, 3, 3, 3)])
def test_the_error_is_the_sum_of_the_squared_values_left_out(shape: tuple[int, ...]) -> None:
    """Eckart and Young (1936)."""
    torch.manual_seed(0)
    delta = torch.randn(shape, dtype=torch.float64)
    values = torch.linalg.svdvals(delta.flatten(1))
    for rank in range(1, len(values) + 2):
        change, share = low_rank(delta, rank)
        assert change.rank == min(rank, len(values))
        error = (change.delta.double() - delta).square().sum()
        left = values[rank:].square().sum()
        assert abs(float(error - left)) < 1e-5 * float(values.square().sum())
        assert share == pytest.approx(1 - float(left / values.square().sum()), rel=1e-9)
    assert_close(change.delta, delta.float())
    assert low_rank(torch.zeros(3, 3), 2)[1] == 1.0


@pytest.mark.parametrize("layout", ["latte", "latte_diffusers", "sd3_diffusers", "vdt"])
def test_what_was_put_on_comes_back(layout: str) -> None:
    base, tuned = build(layout), build(layout)
    layers = random_layers(tuned, layout)
    from kinolab.checkpoints.base import public_tensors
    from kinolab.checkpoints.formats import find_format

    names = layout_of(base, layout)
    with torch.no_grad():
        for name, place in names.places.items():
            rows = tuned.get_parameter(f"{place.layer}.weight").chunk(place.count)[place.index]
            delta = layers[name].change.delta.reshape(rows.shape)
            if name.startswith("norm_out") or "norm1_context" in name:
                continue  # whose rows the layout turns around
            rows.add_(delta)
    found = extract(base, tuned, names, 3)
    assert found.left == () and all(kept.share == pytest.approx(1, rel=1e-6) for kept in found.kept.values())
    again = changed_by_hand(base, layout, found.layers)
    for name, value in public_tensors(find_format(layout), tuned).items():
        assert_close(again[name], value, within=1e-5, what=name)
    less = extract(base, tuned, names, 1, wanted=lambda name: "attn" in name)
    assert {kept.rank for kept in less.kept.values()} == {1} and all("attn" in name for name in less.layers)
    assert all(0 < kept.share < 1 and kept.size > 0 for kept in less.kept.values())
    assert any("mlp.fc1" in name for name in less.left)


def test_the_rows_that_a_layout_turns_around_are_turned_for_the_change() -> None:
    base, tuned, layout = (
        build("sd3_diffusers"),
        build("sd3_diffusers"),
        layout_of(build("sd3_diffusers"), "sd3_diffusers"),
    )
    layer = layout.places["norm_out.linear"].layer
    with torch.no_grad():
        tuned.get_parameter(f"{layer}.weight")[:16].add_(1.0)
    change = extract(base, tuned, layout, 1).layers["norm_out.linear"].change.delta
    assert_close(change[16:], torch.ones(16, 16))
    assert not change[:16].abs().gt(1e-6).any()


def test_models_that_are_no_pair_are_refused() -> None:
    base = build("latte")
    layout = layout_of(base, "latte")
    with pytest.raises(InputError, match=r"a Latte and a Vdt with .* different tensors"):
        extract(base, build("vdt"), layout, 2)
    with pytest.raises(InputError, match="the same weights in all layers"):
        extract(base, build("latte"), layout, 2)
    tuned = build("latte")
    with torch.no_grad():
        tuned.get_parameter("blocks.0.attn.qkv.weight").add_(0.1)
        tuned.get_parameter("blocks.0.attn.qkv.bias").add_(0.1)
    assert extract(base, tuned, layout, 2).left == ("blocks.0.attn.qkv.bias",)
