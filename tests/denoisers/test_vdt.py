"""VDT: what flows where in a block, its conditions, other sizes; parity is in tests/checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kinolab.denoisers import Conditions, Vdt, VdtConfig
from kinolab.errors import InputError


def make(**fields: Any) -> Vdt:
    """A tiny VDT whose every parameter is random."""
    base = {"hidden_size": 24, "depth": 2, "num_heads": 2, "input_size": 4, "num_frames": 3}
    vdt = Vdt(VdtConfig.model_validate({**base, **fields}))
    generator = torch.Generator().manual_seed(0)
    for parameter in vdt.parameters():
        torch.nn.init.normal_(parameter, std=0.15, generator=generator)
    return vdt.eval()


def reach(vdt: Vdt) -> torch.Tensor:
    """(T, H / p, W / p) bool: the patches of the output that change with the first frame's first patch."""
    z, t = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([50.0])
    other = z.clone()
    other[:, :, 0, :2, :2] += 1
    changed = (vdt(z, t, Conditions()) - vdt(other, t, Conditions())).abs() > 1e-7
    return changed.any(1)[0].unflatten(2, (2, 2)).unflatten(1, (2, 2)).any(4).any(2)


@torch.no_grad()
def test_a_block_sees_all_frames_of_a_place_and_all_places_of_a_frame() -> None:
    assert reach(make(depth=1)).all(), "time, then space: one block spreads a change everywhere"
    assert reach(make(depth=1, temporal_attention="last")).all()
    still, narrow = make(depth=1), make(depth=1)
    torch.nn.init.zeros_(still.get_parameter("blocks.0.temporal_fc.weight"))
    seen = reach(still)
    assert seen[0].all() and not seen[1:].any(), "without attention in time, frames are on their own"
    torch.nn.init.zeros_(narrow.get_parameter("blocks.0.attn.proj.weight"))
    seen = reach(narrow)
    assert seen[:, 0, 0].all() and seen.sum() == 3, "without attention in space, places are on their own"


@torch.no_grad()
def test_the_order_of_time_and_space_matters() -> None:
    first, last = make(), make(temporal_attention="last")
    last.load_state_dict(first.state_dict())
    z, t = torch.randn(1, 4, 3, 4, 4), torch.tensor([50.0])
    assert (first(z, t, Conditions()) - last(z, t, Conditions())).abs().max() > 1e-3


@torch.no_grad()
def test_conditions_that_are_not_given_are_null() -> None:
    vdt = make(num_classes=5, text_dim=8, pooled_dim=6)
    z, t = torch.randn(2, 4, 3, 4, 4), torch.tensor([10.0, 700.0])
    given = Conditions(
        torch.tensor([1, 4]), torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool), torch.randn(2, 6)
    )
    null = vdt(z, t, given.all_null(2))
    torch.testing.assert_close(vdt(z, t, Conditions()), null)
    out = vdt(z, t, given)
    for name in ("label", "text", "pooled"):
        parts = {"label": given.label, "text": given.text, "text_mask": given.text_mask, "pooled": given.pooled}
        without = vdt(z, t, Conditions(**{**parts, name: None}))
        assert (without - out).abs().max() > 1e-4, name
    assert given.text is not None
    longer = torch.cat([given.text, torch.randn(2, 2, 8)], 1)
    mask = torch.tensor([[True] * 3 + [False] * 2] * 2)
    padded = Conditions(given.label, longer, mask, given.pooled)
    torch.testing.assert_close(vdt(z, t, padded), out, rtol=1e-5, atol=1e-5)


def test_a_new_model_predicts_zero_and_learns() -> None:
    torch.manual_seed(0)
    vdt = Vdt(VdtConfig(hidden_size=24, depth=2, num_heads=2, input_size=4, num_frames=3, text_dim=8))
    z, t = torch.randn(2, 4, 3, 4, 4), torch.tensor([3.0, 800.0])
    text = Conditions(text=torch.randn(2, 4, 8), text_mask=torch.ones(2, 4, dtype=torch.bool))
    assert not vdt(z, t, text).any()
    optimizer = torch.optim.AdamW(vdt.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (vdt(z, t, text) - z.flip(2)).square().mean()  # what is asked lies in other frames
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_checkpointing_changes_no_gradient() -> None:
    plain = make(text_dim=8)
    saving = make(text_dim=8, gradient_checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    z, t = torch.randn(1, 4, 3, 4, 4), torch.tensor([50.0])
    for model in (plain, saving):
        model(z, t, Conditions()).square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        if a.grad is not None:
            assert b.grad is not None
            torch.testing.assert_close(a.grad, b.grad, msg=name)


@torch.no_grad()
def test_other_sizes_and_lengths_are_interpolated_with_a_warning() -> None:
    vdt, t = make(learned_variance=True), torch.tensor([3.0])
    with pytest.warns(UserWarning, match="trained on latents of 4 x 4, got 8 x 4"):
        assert vdt(torch.randn(1, 4, 3, 8, 4), t, Conditions()).shape == (1, 8, 3, 8, 4)
    with pytest.warns(UserWarning, match="trained on 3 latent frames, got 5"):
        assert vdt(torch.randn(1, 4, 5, 4, 4), t, Conditions()).shape == (1, 8, 5, 4, 4)
    with pytest.raises(InputError, match="multiples of 2"):
        vdt(torch.randn(1, 4, 3, 5, 4), t, Conditions())
    with pytest.raises(InputError, match="without label"):
        vdt(torch.randn(1, 4, 3, 4, 4), t, Conditions(label=torch.tensor([0])))


@torch.no_grad()
def test_half_precision_takes_other_sizes_and_lengths() -> None:
    vdt, t = make().bfloat16(), torch.tensor([3.0])
    with pytest.warns(UserWarning, match="interpolated"):
        assert vdt(torch.randn(1, 4, 5, 8, 4).bfloat16(), t, Conditions()).dtype == torch.bfloat16


def test_sizes_are_those_of_the_released_models() -> None:
    with torch.device("meta"):
        small, large = Vdt(VdtConfig(size="S")), Vdt(VdtConfig(size="L"))
    assert sum(p.numel() for p in small.parameters()) == pytest.approx(42e6, rel=0.05)
    assert (large.config.hidden_size, large.config.depth, large.config.num_heads) == (1152, 28, 16)
    assert VdtConfig(size="S", depth=3).depth == 3
