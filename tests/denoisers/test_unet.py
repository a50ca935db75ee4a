"""The U-Net: what its image model promises of clips, single images, sizes, conditions and training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from kinolab.contracts.conditions import Value
from kinolab.contracts.options import ForwardOptions
from kinolab.denoisers import Conditions, Unet, UnetConfig
from kinolab.errors import InputError
from kinolab.layers.slots import Clip, Place, Slots, TimeLayer
from kinolab.layers.unet_blocks import normalized
from tests.closeness import NETWORK, assert_close, assert_same, differs
from tests.tiny_unets import SMALL

T2 = torch.tensor([300.0, 800.0])


def build(cls: type[Unet] = Unet, **values: Any) -> Unet:
    """A U-Net whose every parameter is random."""
    torch.manual_seed(0)
    model = cls(UnetConfig(**SMALL | values)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def told(**more: Any) -> Conditions:
    text = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(2))
    return Conditions(label=torch.tensor([1, 2]), text=text, **more)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(4, 4), (5, 7), (1, 1), (16, 18)])
@torch.no_grad()
def test_every_frame_is_an_image_of_any_size(size: tuple[int, int]) -> None:
    model, z = build(block_out_channels=(8, 16, 16)), torch.randn(2, 4, 3, *size)
    out = model(z, T2, told())
    assert out.shape == z.shape
    for frame in range(3):
        assert_close(out[:, :, frame : frame + 1], model(z[:, :, frame : frame + 1], T2, told()), NETWORK)


@torch.no_grad()
def test_a_fresh_network_predicts_nothing_and_its_blocks_add_nothing() -> None:
    model = Unet(UnetConfig(**SMALL))
    z = torch.randn(2, 4, 2, 4, 4)
    assert not model(z, T2, told()).any()
    first: Any = model.down_blocks[0]
    x = torch.randn(4, 8, 4, 4)
    assert_same(first.layer(0, x, model.clip(z, T2, told(), None)), x)


@torch.no_grad()
def test_residuals_reach_the_way_up_and_not_the_way_down() -> None:
    model, z = build(), torch.randn(2, 4, 2, 4, 4)
    assert model.block_count == 6  # first convolution, a layer, its halving, a layer; the middle block, its input
    seen: dict[str, Tensor] = {}
    middle: Any = model.mid_block.resnets[0]
    middle.register_forward_pre_hook(lambda _, args: seen.__setitem__("middle", args[0]))
    up: Any = model.up_blocks[0]
    up.resnets[0].register_forward_pre_hook(lambda _, args: seen.__setitem__("up", args[0]))
    plain = model(z, T2, told())
    before = dict(seen)
    skip, last = torch.randn(2, 16, 2, 2, 2), torch.randn(2, 16, 2, 2, 2)
    added = model(z, T2, told(), ForwardOptions(residuals={3: skip, 4: last}))
    assert differs(added, plain).any()
    assert_same(seen["middle"], before["middle"])
    fold = [r.transpose(1, 2).flatten(0, 1) for r in (last, skip)]
    assert_close(seen["up"] - before["up"], torch.cat(fold, 1), NETWORK)
    nothing = {i: torch.zeros(()) for i in range(5)}
    assert_same(model(z, T2, told(), ForwardOptions(residuals=nothing)), plain)
    with pytest.raises(InputError, match="numbers of blocks from 0 to 5, got 6"):
        model(z, T2, told(), ForwardOptions(residuals={6: skip}))


@torch.no_grad()
def test_single_images_have_their_own_label_and_prompt() -> None:
    model, z = build(pooled_dim=6), torch.randn(2, 4, 4, 4, 4)
    label, text, pooled = torch.randint(0, 5, (2, 3)), torch.randn(2, 3, 4, 8), torch.randn(2, 3, 6)
    joint = Conditions(label=label, text=text, pooled=pooled, image_frames=2)
    out = model(z, T2, joint)
    for row, frames in ((0, slice(0, 2)), (1, slice(2, 3)), (2, slice(3, 4))):
        alone = Conditions(label=label[:, row], text=text[:, row], pooled=pooled[:, row])
        assert_close(out[:, :, frames], model(z[:, :, frames], T2, alone), NETWORK)
    null = joint.with_null(torch.tensor([True, False]))
    assert_close(model(z, T2, null)[1], out[1], NETWORK)
    assert_close(model(z, T2, null)[:1], model(z[:1], T2[:1], Conditions().all_null(1)), NETWORK)


@torch.no_grad()
def test_norms_over_all_frames_are_those_of_one_tall_group() -> None:
    model, z = build(norm_scope="clip"), torch.randn(1, 4, 3, 4, 4)
    norm: Any = model.mid_block.resnets[0]
    h = torch.randn(3, 16, 2, 2)
    got = normalized(norm.norm1, h, 1)
    groups = h.transpose(0, 1).reshape(4, -1)
    plain = (groups - groups.mean(1, keepdim=True)) / (groups.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    plain = plain.view(16, 3, 2, 2).transpose(0, 1) * norm.norm1.weight.view(-1, 1, 1) + norm.norm1.bias.view(-1, 1, 1)
    assert_close(got, plain)
    one = Conditions(label=torch.tensor([1]), text=torch.randn(1, 3, 8))
    assert differs(model(z, T2[:1], one)[:, :, :1], model(z[:, :, :1], T2[:1], one)).any()
    assert_close(model(z[:, :, :1], T2[:1], one), build()(z[:, :, :1], T2[:1], one), NETWORK)
    with pytest.raises(InputError, match="joint images"):
        model(z, T2[:1], Conditions(image_frames=1))


@torch.no_grad()
def test_what_is_concatenated_is_zero_where_it_is_null() -> None:
    model, z = build(concatenated={"low_resolution": 2}), torch.randn(2, 4, 2, 4, 4)
    beside = torch.randn(2, 2, 2, 4, 4)
    full = told().told(Conditions(low_resolution=Value("field", beside)))
    half = told().told(Conditions(low_resolution=Value("field", beside * torch.tensor([1, 0]).view(2, 1, 1, 1, 1))))
    assert differs(model(z, T2, full), model(z, T2, told())).any()
    assert_same(model(z, T2, full.with_null(torch.tensor([False, True]), ["low_resolution"])), model(z, T2, half))
    none = half.with_null(torch.tensor([True, False]), ["low_resolution"])
    assert_same(model(z, T2, none), model(z, T2, told()))


@torch.no_grad()
def test_nothing_given_is_zeros_and_a_mask_of_ones() -> None:
    model, z = build(given="channels", mask_channels=2), torch.randn(2, 4, 3, 4, 4)
    plain = model(z, T2, told())
    assert_same(model(z, T2, told(given=torch.zeros_like(z), mask=torch.ones(2, 2, 3, 4, 4))), plain)
    some = model(z, T2, told(given=z, mask=torch.zeros(2, 2, 3, 4, 4)))
    assert differs(some, plain).any()


@torch.no_grad()
def test_vectors_fields_and_the_frame_rate_begin_as_nothing() -> None:
    values: dict[str, Any] = {"vectors": {"noise_level": 0}, "fields": {"control": 4}, "fps_condition": True}
    model = Unet(UnetConfig(**SMALL | values))
    torch.nn.init.normal_(model.conv_out.weight)
    z = torch.randn(2, 4, 2, 4, 4)
    more = {"noise_level": Value("vector", T2 / 1000), "control": Value("field", torch.randn(2, 4, 2, 4, 4))}
    plain, full = model(z, T2, told()), told(fps=torch.tensor([8.0, 24.0]), **more)
    assert_same(model(z, T2, full), plain)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    for name in ("fps", "noise_level", "control"):
        assert differs(model(z, T2, full), model(z, T2, full.without([name]))).any(), name


def test_recomputed_gradients_are_the_same() -> None:
    found = []
    for recompute in (False, True):
        model = build(gradient_checkpointing=recompute).train()
        z = torch.randn(2, 4, 2, 5, 4, generator=torch.Generator().manual_seed(4))
        model(z, T2, told()).square().mean().backward()
        assert all(p.grad is not None for name, p in model.named_parameters() if "null_prompt" not in name)
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in found[0].items():
        assert_close(found[1][name], gradient, NETWORK, name)


@torch.no_grad()
def test_without_gradients_nothing_is_computed_differently() -> None:
    """In-place sums and the shorter doubling write to no tensor that is read again."""
    model, z = build(layers_per_block=2), torch.randn(2, 4, 2, 16, 16)
    kept = z.clone()
    with torch.enable_grad():
        expected = model(z, T2, told()).detach()
    assert_close(model(z, T2, told()), expected, NETWORK)
    assert_same(z, kept)


class Marked(TimeLayer):
    """Adds what it was told of its place."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor, clip: Clip) -> Tensor:
        assert x.shape[:2] == (clip.batch, clip.frames)
        return x + self.value * x.roll(1, 1)


class Everywhere(Slots):
    """A layer at every place, which are written down."""

    def __init__(self) -> None:
        self.places: list[tuple[str, Place]] = []

    def _at(self, what: str, place: Place) -> TimeLayer:
        self.places.append((what, place))
        return Marked(0.5)

    def at_input(self, place: Place) -> TimeLayer:
        return self._at("input", place)

    def after_resnet(self, place: Place) -> TimeLayer:
        return self._at("resnet", place)

    def inside_transformer(self, place: Place) -> TimeLayer:
        return self._at("inside", place)

    def after_attention(self, place: Place) -> TimeLayer:
        return self._at("attention", place)


class Full(Unet):
    def slots(self) -> Slots:
        return Everywhere()


def test_every_slot_is_offered_once() -> None:
    slots = Everywhere()

    class Seen(Unet):
        def slots(self) -> Slots:
            return slots

    Seen(UnetConfig(**SMALL))
    count = {what: sum(w == what for w, _ in slots.places) for what in ("input", "resnet", "inside", "attention")}
    # Down 1 + 1, middle 2, up 2 + 2 residual blocks; transformers at the finest resolution and in the middle.
    assert count == {"input": 1, "resnet": 8, "inside": 1 + 1 + 2, "attention": 2 + 1 + 4}
    assert {at.width for what, at in slots.places if what == "input"} == {8}
    assert all(at.attends for what, at in slots.places if what == "inside")
    assert [at.attends for what, at in slots.places if what == "attention"] == [
        True,
        False,
        True,
        False,
        False,
        True,
        True,
    ]


@torch.no_grad()
def test_layers_over_time_leave_single_images_alone() -> None:
    model, z = build(Full), torch.randn(2, 4, 4, 4, 4)
    label, text = torch.tensor([[1, 1, 1], [2, 2, 2]]), told().text
    assert text is not None
    out = model(z, T2, Conditions(label=label, text=text[:, None].expand(-1, 3, -1, -1), image_frames=2))
    video = model(z[:, :, :2], T2, Conditions(label=label[:, 0], text=text))
    assert_close(out[:, :, :2], video, NETWORK)
    plain = {name: p for name, p in model.named_parameters() if not model.models_time(name)}
    other = build()
    other.load_state_dict(plain, strict=False)
    assert_close(out[:, :, 2:], other(z[:, :, 2:], T2, Conditions(label=label[:, 0], text=text)), NETWORK)
    assert sum(model.models_time(name) for name, _ in model.named_parameters()) == 20


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num_heads": 3}, "8 can't be cut into 3 heads"),
        ({"num_heads": None, "head_size": 5}, "8 can't be cut into heads of 5"),
        ({"head_size": 4}, "say the same"),
        ({"num_heads": (2,)}, "expected one number, or 2"),
        ({"norm_groups": 3}, "8 is no multiple of norm_groups 3"),
        ({"attention_levels": (2,)}, "resolutions from 0 to 1"),
        ({"fields": {"control": 4}, "concatenated": {"control": 4}}, "control is among fields too"),
    ],
)
def test_bad_fields_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises((ValidationError, InputError), match=said):
        UnetConfig(**SMALL | values)


def test_presets_are_stable_diffusions() -> None:
    one, two = UnetConfig(size="sd1"), UnetConfig(size="sd2")
    assert [one.heads(i) for i in range(4)] == [(8, 40), (8, 80), (8, 160), (8, 160)] and one.text_dim == 768
    assert [two.heads(i) for i in range(4)] == [(5, 64), (10, 64), (20, 64), (20, 64)] and two.linear_projection
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in Unet(c).parameters()) - c.text_dim for c in (one, two)]
    assert sizes == [859_520_964, 865_910_724]  # the published models' numbers of parameters
