"""Make-A-Video: what its layers over time begin as and see, on Stable Diffusion's U-Net and the public code's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Reach
from kinolab.denoisers import Conditions, MakeAVideo, MakeAVideoConfig, SpaceTimeUnet, SpaceTimeUnetConfig
from kinolab.denoisers.makeavideo import SecondHalf
from kinolab.denoisers.space_time_unet import ShiftedMlp
from kinolab.errors import InputError
from kinolab.layers.pseudo3d import FrameConv1d, PositionBias, PseudoConv3d, ResidualAttention
from tests.closeness import NETWORK, assert_close, assert_same, differs
from tests.tiny_unets import SMALL

T2 = torch.tensor([300.0, 800.0])
NETWORK_FIELDS: dict[str, Any] = {
    "dim": 8, "dim_mults": (1, 2), "attention": (False, True), "halves_time": (False, True), "depths": (1, 2),
    "num_heads": 2, "head_dim": 4, "input_size": 8, "num_frames": 4, "num_classes": 5,
}  # fmt: skip


def randomized(model: Any) -> Any:
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=source))
    return model.eval()


def own(**values: Any) -> SpaceTimeUnet:
    torch.manual_seed(0)
    return SpaceTimeUnet(SpaceTimeUnetConfig(**NETWORK_FIELDS | values)).eval()


@torch.no_grad()
def test_a_pseudo_3d_convolution_is_one_in_space_and_one_in_time() -> None:
    layer, x = randomized(PseudoConv3d(4, 6, temporal_kernel=5)), torch.randn(2, 4, 7, 3, 5)
    frames = torch.stack([layer.spatial_conv(frame) for frame in x.unbind(2)], 2)  # (B, C', T, H, W)
    tracks = F.conv1d(frames.permute(0, 3, 4, 1, 2).reshape(-1, 6, 7), *_of(layer.temporal_conv), padding=2)
    assert_close(layer(x), tracks.view(2, 3, 5, 6, 7).permute(0, 3, 4, 1, 2))
    assert_close(layer(x, time=False), frames)
    assert PseudoConv3d(4, 6, 1).temporal_conv is None  # a kernel of one place has no half over time
    fresh = PseudoConv3d(4, 6)
    assert_close(fresh(x), fresh(x, time=False))


def _of(conv: FrameConv1d) -> tuple[Tensor, Tensor]:
    assert conv.bias is not None
    return conv.weight, conv.bias


@torch.no_grad()
def test_the_bias_of_attention_is_the_networks_answer_to_each_distance() -> None:
    bias = randomized(PositionBias(6, 3, axes=2))
    found = bias((2, 3))
    places = [(row, column) for row in range(2) for column in range(3)]
    for i, query in enumerate(places):
        for j, key in enumerate(places):
            apart = torch.tensor([float(q - k) for q, k in zip(query, key, strict=True)])
            assert_close(found[:, i, j], bias.net(apart))


@torch.no_grad()
def test_attention_begins_as_the_identity_and_knows_the_order_of_frames() -> None:
    x = torch.randn(2, 5, 3, 8)
    fresh = ResidualAttention(8, 2, 4, axes=1)
    assert_same(fresh.over_tracks(x), x)
    layer = randomized(fresh)
    out = layer.over_tracks(x)
    other = x.clone()
    other[:, :, 1] += 1.0
    assert_close(layer.over_tracks(other)[:, :, [0, 2]], out[:, :, [0, 2]])  # places are kept apart
    turned = layer.over_tracks(x.flip(1)).flip(1)
    assert differs(turned, out).any()  # a bias that knows before from behind
    unordered = randomized(ResidualAttention(8, 2, 4))
    assert_close(unordered.over_tracks(x.flip(1)).flip(1), unordered.over_tracks(x))


@torch.no_grad()
def test_half_of_the_gated_mlps_channels_come_from_the_frame_before() -> None:
    mlp, x = ShiftedMlp(6), torch.randn(1, 4, 2, 6)
    other = x.clone()
    other[:, 2] += 1.0
    changed = differs(mlp(other, time=True), mlp(x, time=True)).flatten(2).any(2)[0]
    assert changed.tolist() == [False, False, True, True]
    changed = differs(mlp(other, time=False), mlp(x, time=False)).flatten(2).any(2)[0]
    assert changed.tolist() == [False, False, True, False]


@torch.no_grad()
def test_one_frame_is_the_image_model_after_training_too() -> None:
    torch.manual_seed(0)
    model = MakeAVideo(MakeAVideoConfig(**SMALL, num_frames=4)).eval()
    z, told = torch.randn(2, 4, 1, 4, 4), Conditions(label=torch.tensor([1, 2]), text=torch.randn(2, 3, 8))
    for name, parameter in model.named_parameters():
        if not model.models_time(name):
            parameter.add_(0.1 * torch.randn_like(parameter))
    before = model(z, T2, told)
    for name, parameter in model.named_parameters():
        if model.models_time(name) and "fps" not in name:
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert_same(model(z, T2, told), before)
    clip = z.expand(-1, -1, 3, -1, -1)
    assert differs(model(clip, T2, told), before.expand(-1, -1, 3, -1, -1)).any()


def test_every_convolution_of_more_than_one_place_has_one_over_time() -> None:
    model = MakeAVideo(MakeAVideoConfig(**SMALL))
    over_time = [m for m in model.modules() if isinstance(m, SecondHalf) and isinstance(m.layer, FrameConv1d)]
    in_space = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size != (1, 1)]
    assert len(over_time) == len(in_space)


@torch.no_grad()
def test_the_public_network_begins_with_convolutions_and_attention_over_time_that_change_nothing() -> None:
    model, z, told = own(halves_time=(False, False)), torch.randn(2, 4, 4, 8, 8), Conditions()
    c = model.embedding(T2, told)
    without = model.predict(z, c, told, None, time=False)
    mlps = [m for m in model.modules() if isinstance(m, ShiftedMlp)]
    assert differs(model(z, T2, told), without).any()  # by the frame before, in the gated MLPs
    for mlp in mlps:
        mlp.proj_out.weight.zero_()
    assert_close(model(z, T2, told), model.predict(z, c, told, None, time=False), NETWORK)


@torch.no_grad()
def test_the_public_network_takes_single_images_frame_by_frame() -> None:
    model, z, told = randomized(own()), torch.randn(2, 4, 4, 8, 8), Conditions(label=torch.tensor([1, 2]))
    off = model.predict(z, model.embedding(T2, told), told, None, time=False)
    each = torch.cat([model(frame, T2, told) for frame in z.split(1, 2)], 2)
    assert_close(each, off, NETWORK)


def test_the_public_network_can_not_be_told_to_read_other_frames() -> None:
    with pytest.raises(InputError, match="leave reach out"):
        own()(torch.zeros(1, 4, 4, 8, 8), T2[:1], Conditions(), ForwardOptions(reach=Reach("first")))


@pytest.mark.parametrize(
    ("shape", "said"),
    [((1, 4, 3, 8, 8), "one latent frame or a multiple of 2, got 3"), ((1, 4, 4, 8, 6), "multiples of 4, got 8 x 6")],
)
def test_sizes_that_do_not_fit_are_refused(shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        own()(torch.zeros(shape), T2[:1], Conditions())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"depths": (1,)}, "depths: expected 2, one of each of dim_mults"), ({"dim": 9}, "expected an even dim"),
        ({"input_size": 6}, "2 levels need multiples of 4"),
    ],
)  # fmt: skip
def test_configs_that_do_not_fit_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SpaceTimeUnetConfig(**NETWORK_FIELDS | values)


def test_an_even_kernel_over_time_is_refused() -> None:
    with pytest.raises(ValidationError, match="temporal_kernel: expected an odd number, got 2"):
        MakeAVideoConfig(**SMALL, temporal_kernel=2)
