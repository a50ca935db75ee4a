"""The exact stream of OD-VAE: equal to the whole clip for any chunking, in memory that does not grow."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kinolab.autoencoders import OdVae, OdVaeConfig
from kinolab.autoencoders.odvae import Variant
from kinolab.config import load_config
from kinolab.errors import InputError
from kinolab.layers.causal_conv import Stream
from tests.closeness import NETWORK, assert_close

pytestmark = pytest.mark.slow  # many short ones, which take long together

TINY: dict[str, Any] = {
    "hidden_size": 4,
    "hidden_size_mult": (1, 2, 2, 2),
    "num_res_blocks": 1,
    "norm_num_groups": 2,
}
VARIANTS = get_args(Variant)


@cache
def tiny(variant: str, ratio: int, resampling: str, upsampling: str) -> OdVae:
    """A tiny OD-VAE with weights large enough for errors to show."""
    config = {
        **TINY,
        "variant": variant,
        "temporal_ratio": ratio,
        "resampling": resampling,
        "upsampling": upsampling,
    }
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)  # the same weights in every run: whoever repeats a failure sees it again
        model = OdVae(load_config(OdVaeConfig, config))
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def noise(*shape: int) -> Tensor:
    """A clip of noise in [-1, 1], the same in every run."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def cut(x: Tensor, lengths: list[int]) -> list[Tensor]:
    """Consecutive chunks of `x` in time: the lengths in turn, again and again, until all is given."""
    chunks, start, turn = [], 0, 0
    while start < x.shape[2]:
        chunks.append(x[:, :, start : start + lengths[turn % len(lengths)]])
        start, turn = start + lengths[turn % len(lengths)], turn + 1
    return chunks


def check_exact(model: OdVae, video: Tensor, lengths: list[int]) -> None:
    """Both streams equal the whole clip within 1e-5."""
    with torch.no_grad():
        whole = model.encode(video)
        parts = list(model.encode_stream(cut(video, lengths)))
        mean, logvar = (torch.cat(list(p), dim=2) for p in zip(*[(p.mean, p.logvar) for p in parts], strict=True))
        assert_close(mean, whole.mean, within=NETWORK)
        assert_close(logvar, whole.logvar, within=NETWORK)
        decoded = torch.cat(list(model.decode_stream(cut(whole.mean, lengths))), dim=2)
        assert_close(decoded, model.decode(whole.mean), within=NETWORK)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("ratio", [4, 8])
@pytest.mark.parametrize("lengths", [[1], [2], [3], [5], [1, 7, 2]], ids=str)
def test_streams_equal_the_whole_clip(variant: str, ratio: int, lengths: list[int]) -> None:
    check_exact(tiny(variant, ratio, "merged", "nearest"), noise(1, 3, 17, 8, 8), lengths)


@settings(max_examples=20, deadline=None)
@given(
    variant=st.sampled_from(VARIANTS),
    ratio=st.sampled_from([1, 2, 4, 8]),
    resampling=st.sampled_from(["merged", "separate", "residual"]),
    upsampling=st.sampled_from(["nearest", "trilinear"]),
    latents=st.integers(1, 4),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_streams_are_exact_for_any_model_length_and_chunking(
    variant: str, ratio: int, resampling: str, upsampling: str, latents: int, lengths: list[int]
) -> None:
    model = tiny(variant, ratio, resampling, upsampling)
    check_exact(model, noise(1, 3, 1 + ratio * (latents - 1), 8, 8), lengths)


def test_latents_and_frames_come_as_soon_as_they_can() -> None:
    model = tiny("all3d", 4, "merged", "nearest")
    given_frames = 0

    def frames() -> Any:
        nonlocal given_frames
        for _ in range(9):
            given_frames += 1
            yield torch.zeros(1, 3, 1, 8, 8)

    with torch.no_grad():
        assert [given_frames for _ in model.encode_stream(frames())] == [1, 5, 9]
        latents = [torch.zeros(1, 4, 1, 1, 1)] * 3
        assert [chunk.shape[2] for chunk in model.decode_stream(latents)] == [1, 4, 4]


def test_two_streams_of_one_model_can_be_interleaved() -> None:
    model = tiny("encoder_outer2d", 4, "merged", "nearest")
    clips = [torch.rand(1, 3, 9, 8, 8), torch.rand(1, 3, 9, 8, 8)]
    with torch.no_grad():
        streams = [model.encode_stream(cut(clip, [1, 4])) for clip in clips]
        pairs = list(zip(*streams, strict=True))
        for i, clip in enumerate(clips):
            joined = torch.cat([pair[i].mean for pair in pairs], dim=2)
            assert_close(joined, model.encode(clip).mean, within=NETWORK)


@pytest.mark.parametrize("upsampling", ["nearest", "trilinear"])
@pytest.mark.parametrize("resampling", ["merged", "separate", "residual"])
def test_memory_of_a_stream_does_not_grow(resampling: str, upsampling: str) -> None:
    model = tiny("all3d", 4, resampling, upsampling)
    encoding, decoding = Stream(), Stream()
    kept: list[tuple[int, int]] = []
    with torch.no_grad():
        for length in [5, *[4] * 8]:
            model.encoder(torch.rand(1, 3, length, 8, 8), encoding)
            model.decoder(torch.rand(1, 4, length // 4 + length % 4, 1, 1), decoding)
            kept.append((encoding.elements(), decoding.elements()))
    assert len(set(kept[1:])) == 1
    assert max(kept[0] + kept[1]) > 0


def test_gradients_flow_through_a_stream() -> None:
    model = tiny("all3d", 4, "merged", "nearest")
    video = torch.rand(1, 3, 5, 8, 8, requires_grad=True)
    torch.cat([p.mean for p in model.encode_stream(cut(video, [2]))], dim=2).sum().backward()
    streamed = video.grad
    video.grad = None
    model.encode(video).mean.sum().backward()
    assert streamed is not None and video.grad is not None
    assert_close(streamed, video.grad, within=NETWORK)
    model.zero_grad()


def test_whole_clip_norm_refuses_to_stream_and_says_what_to_use() -> None:
    model = OdVae(OdVaeConfig(**TINY, norm="clip"))
    with pytest.raises(InputError, match=r"norm 'clip'.*encode_tiled"):
        next(model.encode_stream([torch.zeros(1, 3, 1, 8, 8)]))
    with pytest.raises(InputError, match=r"norm 'clip'.*decode_tiled"):
        next(model.decode_stream([torch.zeros(1, 4, 1, 1, 1)]))


def test_mistakes_in_a_stream_are_named() -> None:
    model = tiny("all3d", 4, "merged", "nearest")
    clip = torch.zeros(1, 3, 6, 8, 8)
    with pytest.raises(InputError, match=r"1 \+ 4\*k frames, got 6"):
        list(model.encode_stream(cut(clip, [3])))
    with pytest.raises(InputError, match="differ in their frames only"):
        list(model.encode_stream([clip, torch.zeros(1, 3, 1, 16, 8)]))
    with pytest.raises(InputError, match="at least one frame"):
        list(model.encode_stream([clip[:, :, :0]]))
    with pytest.raises(InputError, match="multiples of 8"):
        list(model.encode_stream([clip[..., :5]]))
    assert list(model.encode_stream([])) == [] == list(model.decode_stream([]))
