"""Tune-A-Video: what its frames read, how its layers over time begin, and where the public code differs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab import denoisers
from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Reach
from kinolab.denoisers import Conditions, TuneAVideo, TuneAVideoConfig, Unet
from kinolab.denoisers.inflate import inflated
from kinolab.denoisers.tuneavideo import TemporalSelfAttention
from kinolab.errors import InputError
from tests.closeness import assert_close, differs
from tests.tiny_unets import SMALL

T2 = torch.tensor([300.0, 800.0])
ONE = 1e-5


def randomized(model: Any) -> Any:
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=source))
    return model.eval()


def told(**more: Any) -> Conditions:
    text = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(3))
    return Conditions(label=torch.tensor([1, 2]), text=text, **more)


def clip_of(frames: int) -> Tensor:
    return torch.randn(2, 4, frames, 4, 4, generator=torch.Generator().manual_seed(4))


def image_model(**fields: Any) -> Unet:
    return randomized(Unet(denoisers.UnetConfig(**{**SMALL, **fields})))


@torch.no_grad()
def test_a_fresh_model_is_the_image_model_whose_frames_read_the_first_and_the_previous() -> None:
    image = image_model()
    model = inflated(image, "tuneavideo", {})[0].eval()
    z = clip_of(4)
    reading = image(z, T2, told(), ForwardOptions(reach=Reach("first_previous")))
    assert_close(model(z, T2, told()), reading, ONE)
    plain = image(z, T2, told())
    assert_close(model(z, T2, told(), ForwardOptions(reach=Reach("own"))), plain, ONE)
    # Frame 0 reads itself twice, which is as once: its answer is the image model's.
    assert_close(model(z, T2, told())[:, :, 0], plain[:, :, 0], ONE)
    assert differs(model(z, T2, told())[:, :, 1:], plain[:, :, 1:]).any()


@torch.no_grad()
def test_with_norms_over_the_clip_it_is_the_image_model_with_such_norms() -> None:
    image = image_model()
    model = inflated(image, "tuneavideo", {"norm_scope": "clip"})[0].eval()
    over_clip = Unet(image.config.model_copy(update={"norm_scope": "clip"})).eval()
    over_clip.load_state_dict(image.state_dict())
    z = clip_of(3)
    reading = ForwardOptions(reach=Reach("first_previous"))
    assert_close(model(z, T2, told()), over_clip(z, T2, told(), reading), ONE)
    assert differs(model(z, T2, told()), image(z, T2, told(), reading)).any()
    assert_close(model(z[:, :, :1], T2, told()), image(z[:, :, :1], T2, told()), ONE)


@torch.no_grad()
def test_the_public_codes_random_bias_moves_a_fresh_model_by_itself() -> None:
    image = image_model()
    torch.manual_seed(0)
    model: Any = inflated(image, "tuneavideo", {"temporal_bias": "random"})[0].eval()
    layers: list[Any] = [m.attn_temp.to_out[0] for m in model.modules() if isinstance(m, TemporalSelfAttention)]
    assert layers and all(bool((layer.weight == 0).all()) for layer in layers)
    for layer in layers:
        assert 0 < float(layer.bias.abs().max()) <= layer.in_features**-0.5
    z = clip_of(2)
    assert differs(model(z, T2, told()), image(z, T2, told(), ForwardOptions(reach=model.reach))).any()
    for layer in layers:
        layer.bias.zero_()
    assert_close(model(z, T2, told()), image(z, T2, told(), ForwardOptions(reach=model.reach)), ONE)


@torch.no_grad()
def test_attention_over_time_knows_no_order() -> None:
    """Of a clip whose frames read themselves, frames in another order give the answers in that order."""
    model = randomized(TuneAVideo(TuneAVideoConfig(**SMALL, reach="own")))
    z, order = clip_of(4), [2, 0, 3, 1]
    assert_close(model(z[:, :, order], T2, told()), model(z, T2, told())[:, :, order], ONE)
    moved = z.clone()
    moved[:, :, 3] += 1
    assert differs(model(moved, T2, told()), model(z, T2, told()))[:, :, 0].any()


@torch.no_grad()
@pytest.mark.parametrize("reach", ["first_previous", "all"])
def test_single_images_behind_a_clip_neither_hear_nor_are_heard(reach: Any) -> None:
    model = randomized(TuneAVideo(TuneAVideoConfig(**SMALL, reach=reach)))
    z = clip_of(4)
    both = model(z, T2, told(image_frames=1))
    assert_close(both[:, :, :3], model(z[:, :, :3], T2, told()), ONE)
    assert_close(both[:, :, 3:], model(z[:, :, 3:], T2, told(image_frames=1)), ONE)


def test_flags_that_differ_between_clips_are_one_clear_error() -> None:
    model = TuneAVideo(TuneAVideoConfig(**SMALL))
    flags = torch.tensor([[True, False], [False, False]])
    with pytest.raises(InputError, match="image_only: expected the same frames in all clips"):
        model(clip_of(2), T2, told(), ForwardOptions(image_only=flags))


@torch.no_grad()
def test_some_frames_are_as_the_image_model_makes_them() -> None:
    image = image_model()
    model: Any = randomized(inflated(image, "tuneavideo", {})[0])
    model.load_state_dict({**model.state_dict(), **image.state_dict()})
    z, flags = clip_of(3), torch.tensor([[False, True, False]] * 2)
    found = model(z, T2, told(), ForwardOptions(image_only=flags))
    assert_close(found[:, :, 1], image(z, T2, told())[:, :, 1], ONE)
    assert differs(found[:, :, 2], image(z, T2, told())[:, :, 2]).any()


def test_what_is_for_time_alone_is_the_attention_over_frames() -> None:
    model, image = TuneAVideo(TuneAVideoConfig(**SMALL)), Unet(denoisers.UnetConfig(**SMALL))
    added = {name for name, _ in model.named_parameters()} - {name for name, _ in image.named_parameters()}
    assert added == {name for name, _ in model.named_parameters() if model.models_time(name)}
    assert all(".attn_temp." in name or ".norm_temp." in name for name in added)
    assert len(added) == 7 * 4  # q, k, v, out and its bias, the norm's two; 4 blocks
