"""LoRA: no change at first, a change of the given rank after, and the same outputs once merged."""

from __future__ import annotations

import torch
from torch import nn

from kinolab.layers.lora import LoraLinear, add_lora, merge_lora
from tests.closeness import assert_close


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
