"""DiT: what a clip of images under one condition must satisfy; parity is in tests/checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kinolab.denoisers import Conditions, DiT, DiTConfig
from kinolab.errors import InputError
from tests.closeness import assert_close


def make(**fields: Any) -> DiT:
    """A tiny DiT whose every parameter is random."""
    base = {"hidden_size": 24, "depth": 2, "num_heads": 2, "input_size": 4, "num_classes": 3}
    dit = DiT(DiTConfig.model_validate({**base, **fields}))
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return dit.eval()


@torch.no_grad()
def test_every_frame_is_denoised_by_itself() -> None:
    dit, z = make(learned_variance=True), torch.randn(2, 4, 3, 4, 4)
    t, conditions = torch.tensor([10.0, 700.0]), Conditions(label=torch.tensor([0, 2]))
    whole = dit(z, t, conditions)
    assert whole.shape == (2, 8, 3, 4, 4)
    single = torch.cat([dit(z[:, :, i : i + 1], t, conditions) for i in range(3)], dim=2)
    assert_close(whole, single)


@torch.no_grad()
def test_no_label_is_the_null_class() -> None:
    dit, z, t = make(), torch.randn(2, 4, 1, 4, 4), torch.tensor([5.0, 5.0])
    null = Conditions(label=torch.tensor([3, 3]))
    dropped = Conditions(label=torch.tensor([1, 0]), null=torch.tensor([True, True]))
    assert_close(dit(z, t, Conditions()), dit(z, t, null))
    assert_close(dit(z, t, dropped), dit(z, t, null))


def test_a_new_model_predicts_zero_and_learns() -> None:
    dit = DiT(DiTConfig(hidden_size=24, depth=2, num_heads=2, input_size=4, gradient_checkpointing=True))
    out = dit(torch.randn(1, 4, 2, 4, 4), torch.tensor([3.0]), Conditions())
    assert not out.any()
    out.sum().backward()
    assert dit.final_layer.linear.weight.grad is not None


@torch.no_grad()
def test_another_size_is_interpolated_with_a_warning() -> None:
    dit, t = make(num_classes=0), torch.tensor([3.0])
    with pytest.warns(UserWarning, match="trained on latents of 4 x 4, got 8 x 4"):
        assert dit(torch.randn(1, 4, 1, 8, 4), t, Conditions()).shape == (1, 4, 1, 8, 4)
    with pytest.raises(InputError, match="multiples of 2"):
        dit(torch.randn(1, 4, 1, 5, 4), t, Conditions())
    with pytest.raises(InputError, match="without label"):
        dit(torch.randn(1, 4, 1, 4, 4), t, Conditions(label=torch.tensor([0])))
