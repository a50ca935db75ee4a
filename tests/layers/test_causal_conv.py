"""Causal 3D convolutions: their definition, causality, and equality of stream and whole clip."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kinolab.layers.causal_conv import CausalConv3d, FrameConv2d, Stream
from kinolab.layers.causal_resampling import Downsample, SpaceTimeUpsample, TimePool, TimeUpsample
from tests.closeness import assert_close

CHANNELS = 3


def run_stream(layer: nn.Module, x: Tensor, lengths: list[int]) -> Tensor:
    """The outputs of `x` given in chunks of `lengths`, joined."""
    stream = Stream()
    chunks = list(x.split(lengths, dim=2))
    outputs = []
    for i, chunk in enumerate(chunks):
        stream.last = i == len(chunks) - 1
        outputs.append(layer(chunk, stream))
    return torch.cat([y for y in outputs if y.shape[2]], dim=2)


def test_output_is_the_plain_convolution_of_the_clip_with_its_first_frame_repeated() -> None:
    layer, x = CausalConv3d(CHANNELS, 5, (3, 3, 3), stride=(2, 1, 1), padding=(1, 1)), torch.randn(2, CHANNELS, 7, 4, 6)
    padded = F.pad(x, (0, 0, 0, 0, 2, 0), mode="replicate")
    expected = F.conv3d(padded, layer.conv.weight, layer.conv.bias, stride=(2, 1, 1), padding=(0, 1, 1))
    assert expected.shape[2] == 1 + (7 - 1) // 2
    assert_close(layer(x), expected)


@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_an_image_gives_the_same_as_a_still_clip(kernel: int) -> None:
    layer, image = CausalConv3d(CHANNELS, 4, (kernel, 3, 3), padding=(1, 1)), torch.randn(1, CHANNELS, 1, 5, 5)
    still = layer(image.expand(-1, -1, 4, -1, -1))
    assert_close(still, layer(image).expand(-1, -1, 4, -1, -1))


@pytest.mark.parametrize(
    "layer",
    [
        CausalConv3d(CHANNELS, 4, padding=(1, 1)),
        FrameConv2d(CHANNELS, 4, 3, padding=1),
        SpaceTimeUpsample(CHANNELS, "nearest"),
        TimeUpsample("nearest"),
    ],
    ids=["conv3d", "conv2d", "space-time up", "time up"],
)
def test_no_output_depends_on_a_later_frame(layer: nn.Module) -> None:
    x = torch.randn(1, CHANNELS, 4, 4, 4)
    changed = x.clone()
    changed[:, :, 3] += 1.0
    before, after = layer(x), layer(changed)
    known = layer(x[:, :, :3]).shape[2]
    assert_close(after[:, :, :known], before[:, :, :known])
    assert (after[:, :, known:] - before[:, :, known:]).abs().amax() > 1e-3


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
)
@pytest.mark.slow
def test_any_chunking_equals_the_whole_clip(lengths: list[int], kernel: int, stride: int) -> None:
    layer = CausalConv3d(CHANNELS, 2, (kernel, 1, 1), stride=(min(stride, kernel), 1, 1))
    x = torch.randn(1, CHANNELS, sum(lengths), 2, 2)
    assert_close(run_stream(layer, x, lengths), layer(x))


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=5))
@pytest.mark.parametrize("interpolation", ["nearest", "trilinear"])
def test_resampling_in_any_chunks_equals_the_whole_clip(interpolation: str, lengths: list[int]) -> None:
    x = torch.randn(1, CHANNELS, sum(lengths), 2, 4)
    layers: list[nn.Module] = [Downsample(CHANNELS, dimensions=3, time=True), TimePool()]
    if interpolation == "nearest":
        layers += [SpaceTimeUpsample(CHANNELS, "nearest"), TimeUpsample("nearest")]
    else:
        layers += [SpaceTimeUpsample(CHANNELS, "trilinear"), TimeUpsample("trilinear")]
    for layer in layers:
        assert_close(run_stream(layer, x, lengths), layer(x))


def test_nearest_upsampling_is_repetition_then_a_causal_convolution() -> None:
    layer, x = SpaceTimeUpsample(CHANNELS, "nearest"), torch.randn(2, CHANNELS, 3, 4, 3)
    index = torch.tensor([0, 1, 1, 2, 2])
    repeated = x[:, :, index].repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
    assert_close(layer(x), layer.conv(repeated))
    assert_close(layer(x[:, :, :1]), layer.conv(repeated[:, :, :1]))


def test_trilinear_time_upsampling_interpolates_between_the_frames_after_the_first() -> None:
    x = torch.randn(1, 2, 4, 3, 3)
    expected = torch.cat([x[:, :, :1], F.interpolate(x[:, :, 1:], scale_factor=(2, 1, 1), mode="trilinear")], dim=2)
    assert_close(TimeUpsample("trilinear")(x), expected)


def test_time_pool_averages_three_frames() -> None:
    x = torch.arange(5.0).view(1, 1, 5, 1, 1)
    assert TimePool()(x).flatten().tolist() == pytest.approx([0.0, 1.0, 3.0])


def test_two_streams_of_one_layer_do_not_mix() -> None:
    layer = CausalConv3d(CHANNELS, 2, padding=(1, 1))
    clips = [torch.randn(1, CHANNELS, 6, 3, 3) for _ in range(2)]
    streams = [Stream(), Stream()]
    parts: list[list[Tensor]] = [[], []]
    for start in range(0, 6, 2):
        for i, clip in enumerate(clips):
            parts[i].append(layer(clip[:, :, start : start + 2], streams[i]))
    for clip, part in zip(clips, parts, strict=True):
        assert_close(torch.cat(part, dim=2), layer(clip))


def test_a_stream_keeps_copies_not_views() -> None:
    layer, stream = CausalConv3d(1, 1, (3, 1, 1)), Stream()
    layer(torch.randn(1, 1, 50, 2, 2), stream)
    kept = stream.get(layer)
    assert kept is not None and kept.untyped_storage().nbytes() == 2 * 2 * 2 * 4 == stream.elements() * 4
