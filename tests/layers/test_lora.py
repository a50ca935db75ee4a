"""LoRA: no change at first, a change of the given rank after, and the same outputs once merged."""

from __future__ import annotations

import torch
from torch import nn

from kinolab.layers.causal_conv import FrameConv2d
from kinolab.layers.lora import (
    Change,
    LoraLinear,
    add_lora,
    change_layers,
    fold,
    joined,
    merge_lora,
    plain_state,
    stacked,
    weight_of,
)
from tests.closeness import assert_close, assert_same


def test_a_change_has_the_rank_asked_for_and_starts_at_nothing() -> None:
    linear = nn.Linear(12, 8)
    layer, x = LoraLinear(linear, 2), torch.randn(5, 12)
    assert torch.equal(layer(x), linear(x)) and layer.weight is linear.weight
    nn.init.normal_(layer.lora_up)
    change = (layer(x) - linear(x)).detach()
    assert torch.linalg.matrix_rank(layer.lora_up @ layer.lora_down) == 2
    assert_close(change, x @ (layer.lora_up @ layer.lora_down).T.detach())


def test_wanted_layers_only_are_replaced_and_merging_gives_back_their_names() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4, bias=False)))
    names, x = list(model.state_dict()), torch.randn(3, 4)
    assert add_lora(model, 1, lambda name: name == "2.0") == ["2.0"]
    assert type(model[0]) is nn.Linear
    with torch.no_grad():
        model.get_parameter("2.0.lora_up").fill_(0.5)
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4, bias=False)))
    merged = merge_lora(model.state_dict())
    assert list(merged) == names
    plain.load_state_dict(merged)
    assert_close(plain(x), model(x))


def test_the_scale_is_the_same_beside_a_layer_and_in_its_weight() -> None:
    model, x = nn.Sequential(nn.Linear(6, 4)), torch.randn(3, 6)
    plain = nn.Sequential(nn.Linear(6, 4))
    add_lora(model, 2, lambda name: True, scale=3.0)
    nn.init.normal_(model.get_parameter("0.lora_up"))
    plain.load_state_dict(merge_lora(model.state_dict(), 3.0))
    assert_close(plain(x), model(x))
    fold(model)
    assert type(model[0]) is nn.Linear
    assert_close(model(x), plain(x))


def layers() -> nn.Module:
    """A linear layer, convolutions in all ways, and one in groups."""
    torch.manual_seed(0)
    return nn.ModuleDict({
        "linear": nn.Linear(6, 4), "conv": nn.Conv2d(6, 4, 3, stride=2, padding=1, padding_mode="reflect"),
        "grouped": nn.Conv2d(6, 4, 3, groups=2), "frames": FrameConv2d(6, 4, 3, padding=1), "time": nn.Conv3d(6, 4, 3),
    }).eval()  # fmt: skip


def inputs() -> dict[str, torch.Tensor]:
    image, clip = torch.randn(2, 6, 8, 8), torch.randn(2, 6, 5, 8, 8)
    return {"linear": torch.randn(3, 6), "conv": image, "grouped": image, "frames": clip, "time": clip}


def test_any_layer_gives_the_same_with_a_change_beside_it_and_in_it() -> None:
    merged, beside, before = layers(), layers(), dict(layers().state_dict())
    for rank in (2, 3):  # one after the other
        changes = {}
        for name, layer in layers().named_children():
            weight = weight_of(layer)
            assert weight is not None
            changes[name] = Change(0.3 * torch.randn(rank, *weight.shape[1:]), 0.3 * torch.randn(len(weight), rank))
        change_layers(merged, changes)
        change_layers(beside, changes, merged=False)
    assert_same(plain_state(beside), before)
    for name, x in inputs().items():
        assert_close(beside.get_submodule(name)(x), merged.get_submodule(name)(x), within=1e-4, what=name)
    fold(beside)
    assert beside.state_dict().keys() == before.keys()
    for name, value in merged.state_dict().items():
        assert_close(beside.state_dict()[name], value, what=name)


def test_ranks_add_up_and_pieces_stand_in_their_rows() -> None:
    a, b = (Change(torch.randn(r, 5), torch.randn(4, r)) for r in (1, 2))
    both = stacked([a, b.times(-2.0)])
    assert both.rank == 3
    assert_close(both.delta, a.delta - 2 * b.delta)
    three = joined([a, None, b], (12, 5))
    assert_close(three.delta, torch.cat([a.delta, torch.zeros(4, 5), b.delta]))
