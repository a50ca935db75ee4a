"""The average of weights: its formula, its ramp, and that a module gets its own weights back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kinolab.training.ema import Ema
from tests.closeness import assert_close, assert_same


def set_to(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)


@pytest.mark.parametrize(("updates", "d"), [(0, 0.1), (8, 0.5), (90, 0.91), (10_000, 0.99)])
def test_the_average_keeps_d_of_itself_and_d_ramps_up_to_the_decay(updates: int, d: float) -> None:
    module = nn.Linear(3, 2)
    set_to(module, 1.0)
    ema = Ema(module, decay=0.99)
    set_to(module, 11.0)
    ema.update(updates)
    assert set(ema.shadow) == {"weight", "bias"}
    for average in ema.shadow.values():
        assert_close(average, torch.full_like(average, d * 1.0 + (1 - d) * 11.0))


def test_averages_are_swapped_in_for_a_while_even_if_that_fails() -> None:
    module = nn.BatchNorm1d(4)
    ema = Ema(module, decay=0.9)
    averages = {k: v.clone() for k, v in ema.shadow.items()}
    set_to(module, 5.0)
    own = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(RuntimeError, match="stop"), ema.swapped_in():
        assert_same({k: v for k, v in module.state_dict().items() if k in averages}, averages)
        raise RuntimeError("stop")
    assert_same(dict(module.state_dict()), own)
    assert "num_batches_tracked" not in ema.shadow and "running_mean" in ema.shadow, "counts are not averaged"
