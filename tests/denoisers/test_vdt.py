"""VDT: what flows where in a block, its conditions, other sizes; parity is in tests/checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Reach
from kinolab.denoisers import Conditions, Vdt, VdtConfig
from kinolab.errors import InputError
from kinolab.layers.attention import joint_attention
from kinolab.layers.embeddings import video_rotary_table
from tests.closeness import assert_close, differs


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
    changed = differs(vdt(other, t, Conditions()), vdt(z, t, Conditions()))
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
    assert_close(vdt(z, t, Conditions()), null)
    out = vdt(z, t, given)
    for name in ("label", "text", "pooled"):
        parts: dict[str, Any] = {
            "label": given.label,
            "text": given.text,
            "text_mask": given.text_mask,
            "pooled": given.pooled,
        }
        without = vdt(z, t, Conditions(**{**parts, name: None}))
        assert (without - out).abs().max() > 1e-4, name
    assert given.text is not None
    longer = torch.cat([given.text, torch.randn(2, 2, 8)], 1)
    mask = torch.tensor([[True] * 3 + [False] * 2] * 2)
    padded = Conditions(given.label, longer, mask, given.pooled)
    assert_close(vdt(z, t, padded), out)


@pytest.mark.slow
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
            assert_close(a.grad, b.grad, what=name)


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


WAYS = ("adaln", "cross_attention", "tokens", "mask", "channels")


def part(frames: list[int], channels: int = 2) -> Conditions:
    """Given latents (2, 4, 3, 4, 4) at some of 3 frames, zeros elsewhere, and their mask."""
    given = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(7))
    mask = torch.ones(2, channels, 3, 4, 4)
    mask[:, :, frames] = 0
    kept = torch.zeros_like(given)
    kept[:, :, frames] = given[:, :, frames]
    return Conditions(given=kept, mask=mask)


def noisy() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(8)), torch.tensor([50.0, 700.0])


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS)
def test_any_number_of_frames_can_be_given_and_none_is_the_same_as_nothing(way: str) -> None:
    vdt = make(given=way, mask_channels=2)
    z, t = noisy()
    outputs = [vdt(z, t, part(frames)) for frames in ([], [0], [1], [0, 2], [0, 1])]
    assert (outputs[0] - vdt(z, t, Conditions())).abs().max() == 0
    for one in range(len(outputs)):
        for other in range(one):
            assert (outputs[one] - outputs[other]).abs().max() > 1e-4, "which frames are given matters"


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS)
def test_what_is_given_matters_and_reaches_frames_that_are_not(way: str) -> None:
    vdt = make(given=way, mask_channels=2)
    (z, t), first = noisy(), part([0])
    assert first.given is not None
    other = Conditions(given=first.given * 1.5, mask=first.mask)
    assert (vdt(z, t, first) - vdt(z, t, other))[:, :, 1:].abs().max() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS)
def test_given_parts_reach_the_model_clean(way: str) -> None:
    """At the input of the first layer: the given latents themselves, or (for ways of their own) nothing but zeros."""
    vdt, seen = make(given=way, mask_channels=2), []
    vdt.x_embedder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    if hasattr(vdt, "given_embedder"):
        vdt.given_embedder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    (z, t), conditions = noisy(), part([0, 2])
    assert conditions.given is not None and conditions.mask is not None
    vdt(z, t, conditions)
    if way == "channels":
        assert torch.equal(seen[0], torch.cat([z, conditions.given, conditions.mask], 1))
        return
    assert torch.equal(seen[0][:, :, 1], z[:, :, 1]), "what is to be generated is noisy"
    clean = conditions.given if way == "mask" else torch.zeros_like(z)
    assert torch.equal(seen[0][:, :, [0, 2]], clean[:, :, [0, 2]])
    if way != "mask":
        assert torch.equal(seen[1], torch.cat([conditions.given, conditions.mask], 1))


@torch.no_grad()
@pytest.mark.parametrize("way", [w for w in WAYS if w != "channels"])
def test_noise_in_given_latents_has_no_influence(way: str) -> None:
    vdt = make(given=way, mask_channels=2)
    (z, t), conditions = noisy(), part([1])
    other = z.clone()
    other[:, :, 1] = 9.0
    assert torch.equal(vdt(z, t, conditions), vdt(other, t, conditions))


@torch.no_grad()
def test_given_tokens_that_hold_nothing_are_not_attended_to() -> None:
    """Concatenated tokens of frames that are not given change nothing, so their number is free."""
    vdt = make(given="tokens", mask_channels=2)
    (z, t), conditions = noisy(), part([0])
    whole = vdt(z, t, conditions)
    embed = vdt.given_embedder.forward

    def disturbed(latents: torch.Tensor) -> torch.Tensor:
        tokens = embed(latents)
        tokens[:, 1:] += 10.0
        return tokens

    vdt.given_embedder.forward = disturbed  # type: ignore[method-assign, assignment]
    assert_close(vdt(z, t, conditions), whole)


@torch.no_grad()
def test_parts_of_latents_are_told_by_channels_only() -> None:
    """Half of a latent's frames given: `channels` sees it, the unified mask input can't."""
    (z, t), given = noisy(), torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(9))
    mask = torch.ones(2, 2, 3, 4, 4)
    mask[:, 0, 1] = 0
    conditions = Conditions(given=given, mask=mask)
    channels, unified = make(given="channels", mask_channels=2), make(given="mask", mask_channels=2)
    assert (channels(z, t, conditions) - channels(z, t, Conditions())).abs().max() > 1e-3
    assert torch.equal(unified(z, t, conditions), unified(z, t, Conditions()))


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS)
def test_a_fresh_model_trains_every_part_of_its_condition(way: str) -> None:
    torch.manual_seed(0)
    vdt = Vdt(VdtConfig.model_validate({
        "hidden_size": 24, "depth": 2, "num_heads": 2, "input_size": 4, "num_frames": 3, "given": way,
        "mask_channels": 2, "adaln": "single",
    }))  # fmt: skip
    z, t = noisy()
    with torch.enable_grad():
        for parameter in vdt.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        vdt(z, t, part([0])).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in vdt.parameters())


def test_given_latents_that_do_not_fit_are_refused() -> None:
    z, t = noisy()
    with pytest.raises(InputError, match="built without given"):
        make()(z, t, part([0]))
    vdt = make(given="channels", mask_channels=2)
    with pytest.raises(InputError, match="go together"):
        vdt(z, t, Conditions(given=z))
    with pytest.raises(InputError, match="expected given_mask of shape"):
        vdt(z, t, part([0], channels=1))


@torch.no_grad()
def test_one_modulation_for_all_blocks_is_each_blocks_own_with_equal_weights() -> None:
    single, block = make(adaln="single", depth=1), make(depth=1)
    shared = {k: v for k, v in single.state_dict().items() if k in block.state_dict()}
    block.load_state_dict(shared, strict=False)
    table = single.get_parameter("blocks.0.scale_shift_table")
    own, shared_bias = "blocks.0.adaLN_modulation.1", single.get_parameter("t_block.1.bias")
    block.get_parameter(f"{own}.weight").copy_(single.get_parameter("t_block.1.weight"))
    block.get_parameter(f"{own}.bias").copy_(shared_bias + table.flatten())
    z, t = noisy()
    hidden = []
    for vdt in (single, block):
        vdt.blocks[0].register_forward_hook(lambda _m, _a, out: hidden.append(out))
        vdt(z, t, Conditions())
    assert_close(hidden[0], hidden[1])


@torch.no_grad()
def test_joint_attention_reads_every_token_of_the_clip_by_its_distance() -> None:
    joint = make(depth=1, temporal_attention="joint", num_heads=1, hidden_size=16)
    assert reach(joint).all()
    # Without the tables only distances count: a clip that begins one frame later gives the same, one frame later.
    for table in (joint.pos_embed, joint.time_embed):
        table.zero_()
    z, t = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([50.0])
    around = joint(z.flip(2), t, Conditions()).flip(2)
    plain = joint(z, t, Conditions())
    assert (around - plain).abs().max() > 1e-3, "before and after are told apart"
    block: Any = joint.blocks[0]
    x = torch.randn(1, 3, 4, 16, generator=torch.Generator().manual_seed(2))
    later: Any = tuple(video_rotary_table(torch.arange(3.0) + 5, (2, 2), 2, 3, 16))
    now: Any = tuple(video_rotary_table(torch.arange(3.0), (2, 2), 2, 3, 16))
    assert_close(joint_attention(block.attn, x, later), joint_attention(block.attn, x, now))


@torch.no_grad()
def test_joint_attention_of_a_list_for_each_frame_is_that_of_all_of_them() -> None:
    joint = make(depth=2, temporal_attention="joint", qk_norm=True, num_heads=1, hidden_size=16)
    z, t = torch.randn(2, 4, 3, 4, 4), torch.tensor([50.0, 300.0])
    listed = joint(z, t, Conditions(), ForwardOptions(reach=Reach(((0, 1, 2), (2, 1, 0), (0, 1, 2)))))
    assert_close(listed, joint(z, t, Conditions()))
    own = joint(z, t, Conditions(), ForwardOptions(reach=Reach("own")))
    assert (own - listed).abs().max() > 1e-3


@torch.no_grad()
def test_joint_attention_reads_given_tokens_that_hold_something() -> None:
    joint = make(temporal_attention="joint", given="tokens", num_heads=1, hidden_size=16)
    z, t = torch.randn(1, 4, 3, 4, 4), torch.tensor([50.0])
    given, mask = torch.randn(1, 4, 3, 4, 4), torch.ones(1, 1, 3, 4, 4)
    assert_close(joint(z, t, Conditions(given=given, mask=mask)), joint(z, t, Conditions()))
    mask[:, :, 0] = 0
    told = joint(z, t, Conditions(given=given, mask=mask))
    assert (told - joint(z, t, Conditions(given=-given, mask=mask))).abs().max() > 1e-3


def test_joint_attention_needs_heads_that_rotary_positions_can_share() -> None:
    with pytest.raises(ValidationError, match="multiples of 16"):
        VdtConfig(hidden_size=24, num_heads=2, temporal_attention="joint")
