"""Imagen Video's networks: one frame alone is the image model's, what layers over time see, crops and whole frames."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from kinolab.contracts.conditions import Value
from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Reach
from kinolab.denoisers import Conditions, ImagenVideo, ImagenVideoConfig, Unet, UnetConfig
from kinolab.diffusion import Diffusion, DiffusionConfig
from kinolab.errors import InputError
from kinolab.layers.pseudo3d import ResidualAttention, ResidualConv1d, SecondHalf
from kinolab.training.recipe import load_recipe
from tests.closeness import NETWORK, assert_close, assert_same, differs
from tests.tiny_unets import SMALL

T2 = torch.tensor([300.0, 800.0])
KINDS: dict[str, dict[str, Any]] = {
    "base": {},
    "super-resolution": {
        "temporal": "convolution", "concatenated": {"low_resolution": 4}, "vectors": {"noise_level": 0},
    },
}  # fmt: skip
CROPS: dict[str, Any] = {**KINDS["super-resolution"], "spatial_attention": False, "attention_levels": ()}


def made(**values: Any) -> ImagenVideo:
    """One whose parameters are all random, layers over time too."""
    torch.manual_seed(0)
    model = ImagenVideo(ImagenVideoConfig(**SMALL | values)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def told(frames: int, low: Tensor | None = None, **more: Any) -> Conditions:
    known = Conditions(label=torch.tensor([1, 2]), text=torch.randn(2, 3, 8, generator=torch.manual_seed(5)), **more)
    if low is None:
        return known
    level = Value("vector", torch.tensor([0.1, 0.4]))
    return known.told(Conditions(low_resolution=Value("field", low), noise_level=level))


def inputs(kind: str, frames: int) -> tuple[Tensor, Conditions]:
    z = torch.randn(2, 4, frames, 4, 4, generator=torch.Generator().manual_seed(1))
    return z, told(frames, z.flip(0) if kind == "super-resolution" else None)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_of_one_frame_is_the_image_models(kind: str) -> None:
    video, (z, conditions) = made(**KINDS[kind]), inputs(kind, 1)
    beside = {name: value for name, value in KINDS[kind].items() if name != "temporal"}
    image = Unet(UnetConfig(**SMALL | beside)).eval()
    state = {name: value for name, value in video.state_dict().items() if not video.models_time(name)}
    assert not set(state) ^ set(image.state_dict()), "what is over time is all that an image model has not"
    image.load_state_dict(state)
    assert_same(video(z, T2, conditions), image(z, T2, conditions))
    clip, both = inputs(kind, 3)
    assert differs(video(clip, T2, both), image(clip, T2, both)).any()


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_frames_behind_a_clip_and_those_that_a_run_names_are_images_too(kind: str) -> None:
    model, (z, conditions) = made(**KINDS[kind]), inputs(kind, 5)
    joint = model(z, T2, Conditions.of(dict(conditions.items()), None, 2))
    first, last = list(range(3)), list(range(3, 5))
    assert_close(joint[:, :, first], model(z[:, :, first], T2, conditions.at_frames(first)), NETWORK)
    for frame in last:
        assert_close(joint[:, :, [frame]], model(z[:, :, [frame]], T2, conditions.at_frames([frame])), NETWORK)
    flags = torch.zeros(2, 5, dtype=torch.bool)
    flags[:, 4] = True
    found = model(z, T2, conditions, ForwardOptions(image_only=flags))[:, :, [4]]
    assert_close(found, model(z[:, :, [4]], T2, conditions.at_frames([4])), NETWORK)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_attention_sees_the_whole_clip_and_convolutions_their_neighbours(kind: str) -> None:
    model = made(**KINDS[kind])
    layer: Any = ResidualAttention(8, 2, 4, axes=1) if kind == "base" else ResidualConv1d(8)
    x = torch.randn(1, 9, 2, 8)
    assert_same(layer.over_tracks(x), x)  # it begins as the identity
    for parameter in layer.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    other = x.clone()
    other[:, 4] += 1.0
    seen = differs(layer.over_tracks(other), layer.over_tracks(x)).flatten(2).any(2)[0]
    assert seen.tolist() == ([True] * 9 if kind == "base" else [3 <= frame <= 5 for frame in range(9)])
    halves = [m for m in model.modules() if isinstance(m, SecondHalf)]
    blocks = sum(len(getattr(m, "after_attention", ())) for m in model.modules())
    assert len(halves) == blocks and all(type(m.layer) is type(layer) for m in halves)


@torch.no_grad()
def test_without_attention_to_places_only_text_is_read_and_whole_frames_are_as_crops() -> None:
    model = made(**CROPS, norm_groups=8)
    assert not any("attn1" in name for name, _ in model.named_parameters())
    assert any("attn2" in name for name, _ in model.named_parameters())
    z, low = torch.randn(2, 4, 3, 8, 8), torch.randn(2, 4, 3, 8, 8)
    conditions = told(3, low)
    out = model(z, T2, conditions)
    assert differs(model(z, T2, conditions.replace(text=conditions.text.flip(1) + 1)), out).any()  # type: ignore[union-attr]
    with pytest.raises(InputError, match="leave reach out"):
        model(z, T2, conditions, ForwardOptions(reach=Reach("first")))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_any_frames_and_size_are_taken_and_a_fresh_one_predicts_zero(kind: str) -> None:
    torch.manual_seed(0)
    fresh = ImagenVideo(ImagenVideoConfig(**SMALL | KINDS[kind])).eval()
    for frames, height, width in ((1, 4, 4), (3, 6, 10), (17, 5, 7)):
        z = torch.randn(2, 4, frames, height, width)
        out = fresh(z, T2, told(frames, z if kind == "super-resolution" else None))
        assert out.shape == z.shape and not out.any()


@torch.no_grad()
def test_the_level_of_noise_is_read_and_no_low_resolution_is_zeros() -> None:
    model, (z, conditions) = made(**KINDS["super-resolution"]), inputs("super-resolution", 3)
    out = model(z, T2, conditions)
    level = Value("vector", torch.tensor([0.1, 0.5]))
    changed = differs(model(z, T2, conditions.told(Conditions(noise_level=level))), out).flatten(1).any(1)
    assert changed.tolist() == [False, True]
    none = conditions.with_null(torch.tensor([True, True]), ["low_resolution"])
    zeros = conditions.told(Conditions(low_resolution=Value("field", torch.zeros_like(z))))
    assert_same(model(z, T2, none), model(z, T2, zeros))


def test_what_can_not_be_built_says_so() -> None:
    with pytest.raises(ValidationError, match="temporal_kernel: expected an odd number, got 4"):
        ImagenVideoConfig(**SMALL, temporal_kernel=4)
    with pytest.raises(InputError, match="built without low_resolution"):
        made()(torch.zeros(2, 4, 1, 4, 4), T2, Conditions(low_resolution=Value("field", torch.zeros(2, 4, 1, 4, 4))))


def test_with_a_deviation_a_fresh_network_makes_the_clip_that_it_is_told() -> None:
    """At the noisiest time; rows that are told none, or nothing at all, are as of a network without it."""
    small = SMALL | KINDS["super-resolution"]
    torch.manual_seed(0)
    model = ImagenVideo(ImagenVideoConfig(**small, deviation=0.1)).eval()
    process = Diffusion(DiffusionConfig(schedule="cosine_logsnr", prediction="v"))
    z, conditions = inputs("super-resolution", 3)
    low, t = z.flip(0), torch.tensor([1000.0, 1000.0])
    clean = conditions.told(Conditions(noise_level=Value("vector", torch.zeros(2))))
    with torch.no_grad():
        assert_close(process.to_sample(model(z, t, clean), z, t), low, 1e-3)
        model = made(**KINDS["super-resolution"], deviation=0.1)
        plain = made(**KINDS["super-resolution"])
        nulls = {"low_resolution": torch.tensor([True, False])}
        told = Conditions.of(dict(conditions.items()), nulls)
        assert_close(model(z, t, told)[0], plain(z, t, told)[0], NETWORK)
        assert differs(model(z, t, told)[1], plain(z, t, told)[1]).any()
        alone = Conditions(label=conditions.label, text=conditions.text)
        assert_close(model(z, t, alone), plain(z, t, alone), NETWORK)


def test_a_deviation_needs_the_clip_and_its_path() -> None:
    with pytest.raises(ValidationError, match=r"deviation: is from a clip of low resolution, so it needs concatenated"):
        ImagenVideoConfig(**SMALL, deviation=0.1)
    with pytest.raises(InputError, match=r"denoiser.deviation is for diffusion: .*, got flow and flow"):
        load_recipe("toy-imagen-ssr", ["diffusion.schedule=flow", "diffusion.prediction=flow"])
