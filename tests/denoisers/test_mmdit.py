"""MMDiT: what flows between frames and what does not, prompts, positions and pairs of frames.

That the image model is SD3's is tested in tests/checkpoints/test_sd3.py, against diffusers' class."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab.config import load_config
from kinolab.denoisers import Conditions, Mmdit, MmditConfig
from kinolab.denoisers.inflate import start_from_image
from kinolab.errors import InputError
from tests.closeness import NETWORK, assert_close, differs

SMALL: dict[str, Any] = {
    "hidden_size": 32, "depth": 2, "num_heads": 2, "in_channels": 4, "input_size": 8, "num_frames": 4, "text_dim": 10,
    "pooled_dim": 7,
}  # fmt: skip


def build(**fields: Any) -> Mmdit:
    """A model whose every parameter is random, so that all of it does something."""
    torch.manual_seed(0)
    model = Mmdit(load_config(MmditConfig, SMALL | fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def latents(frames: int = 4, sides: tuple[int, int] = (8, 8)) -> Tensor:
    return torch.randn(2, 4, frames, *sides, generator=torch.Generator().manual_seed(1))


def told(**more: Any) -> Conditions:
    source = torch.Generator().manual_seed(2)
    return Conditions(text=torch.randn(2, 5, 10, generator=source), pooled=torch.randn(2, 7, generator=source), **more)


def run(model: Mmdit, z: Tensor, conditions: Conditions | None = None) -> Tensor:
    with torch.no_grad():
        return model(z, torch.tensor([10.0, 700.0]), conditions if conditions is not None else told())


def reaches(model: Mmdit, changed: int, frames: int = 4) -> list[bool]:
    """Which frames of the prediction change with one frame of the latents."""
    z = latents(frames)
    other = z.clone()
    other[:, :, changed] += 1
    return differs(run(model, other), run(model, z)).amax((0, 1, 3, 4)).tolist()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"attention": "2d", "temporal_position": "none"}, [False, True, False, False]),
        ({"attention": "2d", "temporal_position": "sincos"}, [False, True, False, False]),
        ({"attention": "3d"}, [True] * 4),
        ({"attention": "2d+3d"}, [True] * 4),
        ({"attention": "2d+3d", "text_dim": 0, "pooled_dim": 0, "num_classes": 3}, [True] * 4),
    ],
)
def test_frames_see_each_other_in_3d_only(fields: dict[str, Any], expected: list[bool]) -> None:
    model = build(**fields)
    if "text_dim" in fields:
        z, other = latents(), latents()
        other[:, :, 1] += 1
        label = Conditions(label=torch.tensor([0, 2]))
        assert differs(run(model, other, label), run(model, z, label)).amax((0, 1, 3, 4)).tolist() == expected
    else:
        assert reaches(model, 1) == expected


def test_in_2d_a_clip_is_a_batch_of_images_with_a_text_stream_each() -> None:
    model = build(attention="2d", temporal_position="none", dual_attention_layers=[0], qk_norm=True)
    z = latents()
    whole = run(model, z)
    for frame in range(4):
        assert_close(whole[:, :, frame : frame + 1], run(model, z[:, :, frame : frame + 1]))


def test_one_frame_is_the_same_in_2d_and_3d() -> None:
    """The same weights: attention over the tokens of all frames is attention over those of one."""
    image = build(attention="2d", temporal_position="none")
    for position in ("none", "rotary", "sincos"):
        video = Mmdit(image.config.model_copy(update={"attention": "3d", "temporal_position": position})).eval()
        video.load_state_dict(image.state_dict(), strict=position != "sincos")
        assert_close(run(video, latents(1)), run(image, latents(1)))


def test_without_positions_in_time_3d_does_not_know_the_order() -> None:
    model = build(attention="3d", temporal_position="none")
    z = latents()
    order = [2, 0, 3, 1]
    assert_close(run(model, z[:, :, order]), run(model, z)[:, :, order])
    for position in ("rotary", "sincos"):
        model = build(attention="3d", temporal_position=position)
        assert (run(model, z[:, :, order]) - run(model, z)[:, :, order]).abs().max() > 1e-3


def test_a_prompt_reaches_every_frame_and_its_padding_none() -> None:
    model, z = build(attention="2d+3d"), latents()
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    given = told(text_mask=mask)
    assert given.text is not None
    base, padded, other = run(model, z, given), given.text.clone(), given.text.clone()
    padded[0, 3:] = 9.0
    other[0, 2] = 9.0
    assert_close(run(model, z, given.replace(text=padded)), base)
    changed = run(model, z, given.replace(text=other)) - base
    assert (changed[0].abs().amax((0, 2, 3)) > 1e-4).all() and not changed[1].any()
    short = given.replace(text=given.text[:, :3], text_mask=None)
    assert_close(run(model, z, short)[0], base[0])


@pytest.mark.parametrize("tokens", [1, 5, 8])
def test_null_rows_forget_their_prompt_and_leave_others_alone(tokens: int) -> None:
    model, z = build(null_tokens=tokens), latents()
    base, nothing = run(model, z), run(model, z, Conditions())
    mixed = run(model, z, told(null=torch.tensor([True, False])))
    assert_close(mixed[0], nothing[0])
    assert_close(mixed[1], base[1])
    empty = run(model, z, told(text_mask=torch.tensor([[False] * 5, [True] * 5]), null=torch.tensor([True, False])))
    assert_close(empty, mixed)
    assert (mixed[0] - base[0]).abs().max() > 1e-3


def test_the_empty_prompts_embedding_is_the_null_condition() -> None:
    model = build(null="prompt", pooled_norm=False)
    z, text, pooled = latents(), torch.randn(3, 10), torch.randn(7)
    model.set_null_prompt(text, pooled)
    assert model.config.null_tokens == 3
    expected = run(model, z, Conditions(text=text.expand(2, -1, -1), pooled=pooled.expand(2, -1)))
    assert_close(run(model, z, told().all_null(2)), expected, within=NETWORK)
    again = Mmdit(model.config)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.null_prompt.text, text)
    with pytest.raises(InputError, match="expected 2 dimensions, the last one 10"):
        model.set_null_prompt(torch.randn(3, 9))
    with pytest.raises(InputError, match="learns its null condition"):
        build().set_null_prompt(text)


def test_a_pooled_prompt_of_any_scale_is_the_same_where_it_is_normalised() -> None:
    given = told()
    assert given.pooled is not None
    large = given.replace(pooled=given.pooled * 50)
    model = build()
    assert_close(run(model, latents(), large), run(model, latents(), given))
    raw = build(pooled_norm=False)
    assert (run(raw, latents(), large) - run(raw, latents(), given)).abs().max() > 1e-2


def test_the_frame_rate_changes_nothing_at_first_and_an_unknown_one_never() -> None:
    model, z = build(fps_condition=True), latents()
    unknown = run(model, z, told(fps=torch.zeros(2)))
    assert_close(unknown, run(model, z))
    rates = run(model, z, told(fps=torch.tensor([0.0, 24.0])))
    assert_close(rates[0], unknown[0])
    assert (rates[1] - unknown[1]).abs().max() > 1e-3
    model.start_video_parameters()
    assert_close(run(model, z, told(fps=torch.tensor([8.0, 24.0]))), run(model, z))
    with pytest.raises(InputError, match="without fps"):
        run(build(), z, told(fps=torch.zeros(2)))


def test_a_single_frame_is_its_own_patch() -> None:
    """Of an odd number of frames the first goes through the image model's embedding and head, the rest in pairs."""
    model = build(temporal_patch=2, num_frames=5)
    image = Mmdit(model.config.model_copy(update={"temporal_patch": 1})).eval()
    image.load_state_dict(model.state_dict(), strict=False)
    assert_close(run(model, latents(1)), run(image, latents(1)))
    for frames, tokens in ((1, 1), (2, 1), (3, 2), (4, 2), (5, 3)):
        assert model.config.token_frames(frames) == tokens
        assert model._embed(latents(frames)).shape == (2, tokens, 16, 32)
        assert run(model, latents(frames)).shape == (2, 4, frames, 8, 8)
    model.start_video_parameters()
    embedded = model._embed(latents(1).expand(-1, -1, 5, -1, -1))
    assert_close(embedded, embedded[:, :1].expand_as(embedded))


def test_any_smaller_grid_is_cut_from_the_centre_of_the_table() -> None:
    for kind in ("table", "learned"):
        model = build(spatial_position=kind, pos_embed_max_size=6)
        table = model.pos_embed.view(6, 6, 32)
        assert torch.equal(model._places((4, 2)), table[1:5, 2:4].reshape(1, 8, 32))
        assert run(model, latents(2, (8, 12))).shape == (2, 4, 2, 8, 12)  # without a warning, which would be an error
        with pytest.raises(InputError, match="at most 12 x 12, got 8 x 14"):
            run(model, latents(1, (8, 14)))
    with pytest.warns(UserWarning, match="interpolated"):
        run(build(), latents(1, (8, 12)))
    assert isinstance(build(spatial_position="learned").pos_embed, torch.nn.Parameter)


def test_the_fixed_table_spreads_the_grid_of_training_over_its_side() -> None:
    """SD3's table of M places counts them in steps of (grid in training) / M."""
    half = Mmdit(load_config(MmditConfig, SMALL | {"pos_embed_max_size": 8}))  # a grid of 4 in steps of 1/2
    whole = Mmdit(load_config(MmditConfig, SMALL))
    assert_close(half.pos_embed.view(8, 8, 32)[::2, ::2], whole.pos_embed.view(4, 4, 32))


def test_rotary_places_tell_tokens_apart_by_their_distances() -> None:
    model = build(spatial_position="rotary", temporal_position="none", text_dim=0, attention="2d")
    assert not any("pos_embed" in name for name in model.state_dict())
    pooled = Conditions(pooled=torch.ones(2, 7))
    same = run(model, torch.ones(2, 4, 1, 8, 8), pooled).unflatten(3, (4, 2)).unflatten(5, (4, 2))
    assert_close(same, same[:, :, :, :1, :, :1].expand_as(same))
    patches = latents(1).unflatten(3, (4, 2)).unflatten(5, (4, 2))
    moved = patches[:, :, :, [1, 0, 2, 3]]
    a, b = (run(model, z.flatten(5, 6).flatten(3, 4), pooled).unflatten(3, (4, 2)) for z in (patches, moved))
    assert (a[:, :, :, [1, 0, 2, 3]] - b).abs().max() > 1e-3


def test_clips_within_the_trained_length_count_frames_and_longer_ones_squeeze_them() -> None:
    model = build(num_frames=4)
    assert model._times(1).tolist() == [0] and model._times(3).tolist() == [0, 1, 2]  # without a warning
    with pytest.warns(UserWarning, match="trained on 4 latent frames, got 8"):
        assert model._times(8).tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]


def test_gradient_checkpointing_changes_no_gradient() -> None:
    plain, saving = (build(attention="2d+3d", gradient_checkpointing=on) for on in (False, True))
    for model in (plain, saving):
        model(latents(2), torch.tensor([10.0, 700.0]), told()).square().mean().backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        if "null_prompt" not in name:
            assert_close(a.grad, b.grad)


@pytest.mark.parametrize("position", ["table", "rotary"])
def test_in_bfloat16_both_residual_streams_stay_float32(position: str) -> None:
    model, seen = build(attention="2d+3d", spatial_position=position, qk_norm=True), []
    model.joint_blocks[1].register_forward_pre_hook(lambda module, inputs: seen.extend(inputs[:2]))
    exact = run(model, latents())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = run(model, latents())
    assert [v.dtype for v in seen] == [torch.float32] * 4
    assert 1e-4 < (rounded.float() - exact).abs().max() / exact.abs().max() < 0.1


def test_every_parameter_of_a_video_model_learns() -> None:
    model = build(
        attention="2d+3d", temporal_patch=2, temporal_position="sincos", fps_condition=True, qk_norm=True,
        dual_attention_layers=[1], num_classes=3, spatial_position="learned",
    )  # fmt: skip
    conditions = told(null=torch.tensor([True, False]), fps=torch.tensor([8.0, 24.0]), label=torch.tensor([0, 1]))
    model(latents(3), torch.tensor([10.0, 700.0]), conditions).square().mean().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # Nothing reads what the last block's text asks for; the public weights hold it all the same.
    assert idle == ["joint_blocks.1.context_block.attn.q_norm.weight"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 30}, "multiple of num_heads"),
        ({"attention": "2d"}, "temporal_position rotary is for attention over frames"),
        ({"dual_attention_layers": [2]}, r"\[2\]: expected blocks from 0 to 1"),
        ({"pos_embed_max_size": 3}, "smaller than the grid"),
        ({"spatial_position": "rotary", "pos_embed_max_size": 8}, "leave it out"),
        ({"num_heads": 8}, "of at least 6, got 4"),
        ({"patch_size": 3}, "multiple of patch_size"),
    ],
)
def test_configs_that_make_no_model_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(MmditConfig, SMALL | fields)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": torch.zeros(2, 5, 9)}, r"text of shape \(2, 5, 10\), got \(2, 5, 9\)"),
        ({"pooled": torch.zeros(1, 7)}, r"pooled of shape \(2, 7\)"),
        ({"text": torch.zeros(2, 5, 10), "text_mask": torch.ones(2, 4, dtype=torch.bool)}, "text_mask of shape"),
        ({"label": torch.zeros(2)}, "without label"),
    ],
)
def test_conditions_of_the_wrong_shape_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(build(), latents(), Conditions(**given))


def test_sides_that_patches_do_not_divide_are_refused() -> None:
    with pytest.raises(InputError, match="multiples of 2, got 8 x 7"):
        run(build(), latents(1, (8, 7)))


def part(frames: list[int], channels: int = 2) -> Conditions:
    """Given latents (2, 4, 4, 8, 8) at some of 4 frames, zeros elsewhere, and their mask."""
    given = torch.randn(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    mask = torch.ones(2, channels, 4, 8, 8)
    mask[:, :, frames] = 0
    return told(given=given * (mask[:, :1] == 0), mask=mask)


@pytest.mark.parametrize("attention", ["3d", "2d+3d"])
def test_any_frames_can_be_given_and_none_is_the_same_as_nothing(attention: str) -> None:
    model = build(attention=attention, given="channels", mask_channels=2)
    outputs = [run(model, latents(), part(frames)) for frames in ([], [0], [1], [0, 2], [0, 1])]
    assert torch.equal(outputs[0], run(model, latents()))
    for one in range(len(outputs)):
        for other in range(one):
            assert differs(outputs[one], outputs[other]).amax((0, 1, 3, 4)).all(), "it reaches all frames"


def test_what_is_given_begins_as_nothing() -> None:
    """A model of prompts goes on as one of tasks: its weights with the port at zero give what it gave."""
    plain = build()
    model = Mmdit(load_config(MmditConfig, SMALL | {"given": "channels", "mask_channels": 2})).eval()
    report = start_from_image(model, plain)
    assert report.fresh == ("given_port.weight",) and not report.dropped
    assert torch.equal(run(model, latents(), part([0, 1])), run(plain, latents()))


def test_pairs_of_frames_take_nothing_given() -> None:
    with pytest.raises(InputError, match="fields and given need temporal_patch 1"):
        load_config(MmditConfig, SMALL | {"given": "channels", "temporal_patch": 2})
