"""What a stage of a cascade refines: made of training clips, asked for in requests, held over time, cut with crops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab.autoencoders import PixelConfig
from kinolab.autoencoders import build as build_autoencoder
from kinolab.conditioning import Setting, of_examples, of_requests, read_settings
from kinolab.conditioning.crops import crop_of, crop_step, cropped, first_frame
from kinolab.conditioning.low_resolution import LowResolutionConfig
from kinolab.conditioning.noise_level import NoiseLevelConfig
from kinolab.config import load_config
from kinolab.contracts.examples import Example
from kinolab.contracts.request import Request
from kinolab.denoisers.base import DenoiserSpec
from kinolab.errors import InputError
from kinolab.layers.ports import named_ports
from kinolab.layers.resizing import enlarge, shrink
from tests.closeness import assert_close, assert_same
from tests.tiny_model import tiny_model


def clip(seed: int = 0, frames: int = 9, side: int = 16) -> Tensor:
    return torch.rand(3, frames, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def example(pixels: Tensor) -> Example:
    return Example(pixels, 8.0, "a red ball", 0, "x", (0.0, 1.0))


def setting(levels: bool = False, autoencoder: Any = None, **low: Any) -> Setting:
    """A model of pixels, 9 frames of 16 x 16, that takes a low resolution, and the level of its noise if asked for."""
    autoencoder = autoencoder or build_autoencoder(PixelConfig())
    channels = autoencoder.spec.latent_channels
    vectors = {"noise_level": 0} if levels else {}
    spec = DenoiserSpec(channels, False, more=named_ports(vectors, {"low_resolution": channels}))
    settings = read_settings({"low_resolution": low} if low else {})
    return Setting(spec, autoencoder, torch.device("cpu"), frames=9, size=(16, 16), fps=8.0, settings=settings)


def draws(rows: int) -> Callable[[str], Sequence[torch.Generator]]:
    return lambda purpose: [torch.Generator().manual_seed(100 * len(purpose) + row) for row in range(rows)]


def shown(clips: Sequence[Tensor], made_with: Setting) -> Any:
    told = of_examples([example(c) for c in clips], made_with, draws(len(clips)))  # type: ignore[arg-type]
    return told["low_resolution"].value


def asked(small: Tensor, made_with: Setting, **request: Any) -> Any:
    told = {"low_resolution": small, **request.pop("conditions", {})}
    return of_requests([Request(conditions=told, **request)], made_with)["low_resolution"].value


def test_shapes_go_from_what_is_made_to_what_is_given_and_back() -> None:
    config = LowResolutionConfig(factor=4, frames_factor=4)
    assert config.input_shape(33, (128, 96)) == (9, (32, 24)) and config.made_frames(9) == 33
    assert LowResolutionConfig(factor=1, frames_factor=2).input_shape(32, (40, 24)) == (16, (40, 24))
    assert LowResolutionConfig().input_shape(17, (64, 64)) == (17, (16, 16))
    with pytest.raises(InputError, match="set one of them, or there is nothing to refine"):
        load_config(LowResolutionConfig, {"factor": 1})


@pytest.mark.parametrize("name", ["area", "bilinear", "bicubic", "nearest", "lanczos"])
def test_training_and_sampling_are_told_the_same_of_one_clip(name: Any) -> None:
    made_with, whole = setting(factor=4, frames_factor=4, filter=name), clip()
    small = shrink(whole[None, :, ::4], (4, 4), name)
    large = enlarge(small, (16, 16))[0]
    expected = torch.stack([large[:, frame // 4] for frame in range(9)], 1)
    assert_same(shown([whole], made_with)[0], expected)
    assert_same(asked(small[0], made_with)[0], expected)
    longer = torch.cat([small[0], small[0, :, :1]], 1)
    assert_same(asked(longer, made_with)[0], expected)  # further frames are left alone
    assert asked(small[0, :, :2], made_with, frames=8).shape == (1, 3, 8, 16, 16)


def test_blanks_are_zeros_between_what_is_given() -> None:
    whole = clip()
    [found] = shown([whole], setting(factor=1, frames_factor=2, hold="blank"))
    assert_same(found[:, ::2], whole[:, ::2])
    assert not found[:, 1::2].any()


def test_noise_is_the_forward_process_of_the_level_and_the_same_in_a_frame_that_is_repeated() -> None:
    made_with = setting(levels=True, factor=1, frames_factor=4)
    clean, noisy = (asked(clip()[:, ::4], made_with, seed=3, conditions={"noise_level": s})[0] for s in (0.0, 0.6))
    noise = (noisy - 0.8 * clean) / 0.6  # sqrt(1 - 0.6^2) = 0.8
    assert_close(noise[:, ::4].std(), torch.tensor(1.0), 0.05)
    assert_close(noise[:, 4], noise[:, 7], 1e-4)
    assert not torch.equal(noise[:, 3], noise[:, 4])


def test_the_level_of_sampling_may_be_a_signal_to_noise_ratio() -> None:
    assert NoiseLevelConfig().sampled == 0.1
    assert NoiseLevelConfig(snr=3).sampled == pytest.approx(0.5, rel=1e-12)
    for snr in (3.0, 5.0):
        level = NoiseLevelConfig(snr=snr).sampled
        assert (1 - level**2) / level**2 == pytest.approx(snr, rel=1e-12)
    with pytest.raises(InputError, match="greater than 0"):
        load_config(NoiseLevelConfig, {"snr": 0})


@pytest.mark.parametrize("name", ["area", "bilinear", "bicubic", "lanczos"])
def test_a_crop_is_told_the_same_place_of_what_the_whole_clip_becomes(name: Any) -> None:
    made_with, whole = setting(factor=4, frames_factor=2, filter=name), clip(side=32)
    full = shown([whole], made_with)[0]
    seen = set()
    for seed in range(12):
        part = cropped(example(whole), (16, 8), crop_step(1, 4), torch.Generator().manual_seed(seed))
        crop = crop_of(part)
        assert crop is not None and part.video.shape == (3, 9, 16, 8)
        (y, x), rows = crop.corner, slice(crop.corner[0], crop.corner[0] + 16)
        assert y % 4 == x % 4 == 0
        assert_same(part.video, whole[:, :, rows, x : x + 8])
        [found] = of_examples([part], made_with, draws(1))["low_resolution"].value  # type: ignore[arg-type]
        assert_same(found, full[:, :, rows, x : x + 8])
        seen.add((y, x))
        first = first_frame(part)
        [alone] = of_examples([first], made_with, draws(1))["low_resolution"].value  # type: ignore[arg-type]
        assert_same(alone, full[:, :1, rows, x : x + 8])
    assert len(seen) > 4


def test_latents_of_several_frames_are_of_repeated_pixels_and_have_no_blanks() -> None:
    autoencoder = tiny_model(text=False).autoencoder  # 4 frames a latent
    assert autoencoder.spec.temporal_ratio > 1
    low: dict[str, Any] = {"factor": 1, "frames_factor": 4}
    pixels = clip(side=32)
    made_with = setting(autoencoder=autoencoder, **low)
    held = pixels[:, [frame // 4 * 4 for frame in range(9)]]
    assert_close(shown([pixels], made_with), autoencoder.encode(held[None]).mean)
    with pytest.raises(InputError, match=r"low_resolution.hold: blank: a latent of this autoencoder is \d frames"):
        shown([pixels], setting(autoencoder=autoencoder, hold="blank", **low))


def test_too_few_frames_are_one_clear_line() -> None:
    made_with = setting(factor=1, frames_factor=4)
    with pytest.raises(InputError, match="the clip has 2 frames, and 9 are generated of 3; ask for fewer"):
        asked(clip()[:, :2], made_with)
    with pytest.raises(InputError, match="has 5 frames, and 9 are generated; ask for fewer"):
        asked(clip()[:, :5], setting(factor=4))
