"""The equation of inflation of U-Nets: before training a clip's frames are the image model's, for every system."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kinolab.config import load_config
from kinolab.contracts.options import ForwardOptions
from kinolab.denoisers import Conditions, Unet, UnetConfig, VideoLdm, build
from kinolab.denoisers.inflate import inflated, init_unet, start_from_image, unet_systems
from kinolab.errors import InputError
from tests.closeness import assert_close, assert_same, differs
from tests.tiny_unets import SMALL

T2 = torch.tensor([300.0, 800.0])
ONE = 1e-5
"""What one frame may differ by, as a share of the image model's spread."""
FIELDS: dict[str, dict[str, Any]] = {"animatediff": {"motion_heads": 2}, "svd": {"number_features": 6}}
LAYOUTS: dict[str, dict[str, Any]] = {
    "sd1": {"size": "sd1", "num_heads": 2, "text_dim": 8, "linear_projection": False},
    "sd2": {"size": "sd2", "head_size": 4, "text_dim": 8, "linear_projection": True},
    "other": {
        "num_heads": (2, 4), "in_channels": 3, "block_out_channels": (8, 24), "layers_per_block": 2, "pooled_dim": 6,
        "attention_levels": (1,), "learned_variance": True, "upcast_attention": True, "null": "prompt",
    },
}  # fmt: skip


def image_model(**fields: Any) -> Unet:
    values = {name: value for name, value in SMALL.items() if name != "num_heads" or "head_size" not in fields}
    return randomized(Unet(load_config(UnetConfig, values | fields)))


def randomized(model: Any, seed: int = 0) -> Any:
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=source))
    return model.eval()


def told(model: Unet) -> Conditions:
    source = torch.Generator().manual_seed(3)
    pooled = torch.randn(2, 6, generator=source) if model.config.pooled_dim else None
    return Conditions(label=torch.tensor([1, 2]), text=torch.randn(2, 3, 8, generator=source), pooled=pooled)


def clip_of(image: Unet, frames: int) -> torch.Tensor:
    return torch.randn(2, image.config.in_channels, frames, 6, 4, generator=torch.Generator().manual_seed(4))


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", unet_systems())
@pytest.mark.slow
def test_frames_are_the_image_models(kind: str, layout: str) -> None:
    image = image_model(**LAYOUTS[layout])
    video, report = inflated(image, kind, FIELDS.get(kind, {}))
    z, alike = clip_of(image, 3), ForwardOptions(reach=video.reach)  # tuneavideo's frames read others
    expected = image(z, T2, told(image), alike)
    assert_close(video.eval()(z[:, :, :1], T2, told(image)), expected[:, :, :1], ONE)
    assert_close(video(z, T2, told(image)), expected, ONE)
    assert_close(video(z, T2, told(image).all_null(2)), image(z, T2, told(image).all_null(2), alike), ONE)
    assert not report.dropped and set(report.copied) == set(image.state_dict())
    assert all(video.models_time(name) for name in report.fresh) and report.fresh


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("kind", ["video_ldm", "svd", "makeavideo", "imagen_video", "tuneavideo"])
def test_with_the_image_only_flag_they_are_it_after_training_too(kind: str) -> None:
    image = image_model()
    video, _ = inflated(image, kind, FIELDS.get(kind, {}))
    with torch.no_grad():
        for name, parameter in video.named_parameters():
            if video.models_time(name) and "add_embedding" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    z, flags = clip_of(image, 3), torch.ones(2, 3, dtype=torch.bool)
    alike = ForwardOptions(reach=video.reach)
    assert differs(video.eval()(z, T2, told(image)), image(z, T2, told(image), alike)).any()
    assert_close(video(z, T2, told(image), ForwardOptions(image_only=flags)), image(z, T2, told(image)), ONE)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    "fields",
    [
        {"given": "channels"}, {"given": "context"}, {"concatenated": {"image": 4}}, {"fields": {"control": 2}},
        {"vectors": {"noise_level": 0}}, {"fps_condition": True},
    ],
    ids=lambda f: next(iter(f)),
)  # fmt: skip
def test_what_the_image_model_is_not_told_starts_as_nothing(fields: dict[str, Any]) -> None:
    image = image_model()
    video, _ = inflated(image, "video_ldm", fields)
    z = clip_of(image, 2)
    more: dict[str, Any] = {}
    if "given" in fields:
        more = {"given": torch.randn_like(z), "mask": torch.zeros(2, 1, 2, 6, 4)}
    if "fps_condition" in fields:
        more = {"fps": torch.tensor([8.0, 24.0])}
    told_more = told(image).replace(**more)
    assert_close(video.eval()(z, T2, told_more), image(z, T2, told(image)), ONE)


@torch.no_grad()
def test_other_image_weights_are_put_under_trained_layers_over_time() -> None:
    first, personal = image_model(), randomized(image_model(), seed=1)
    video, _ = inflated(first, "video_ldm", {"given": "channels"})
    assert isinstance(video, VideoLdm)
    before = {k: v.clone() for k, v in randomized(video, seed=2).state_dict().items()}
    report = init_unet(video, personal, trained=True)
    after, source = video.state_dict(), personal.state_dict()
    for name, value in after.items():
        if name == "conv_in.weight":
            assert_same(value[:, :4], source[name])
            assert_same(value[:, 4:], before[name][:, 4:])
        else:
            assert_same(value, source[name] if name in source else before[name])
    assert set(report.fresh) == {name for name in before if video.models_time(name)}
    flags = ForwardOptions(image_only=torch.ones(2, 2, dtype=torch.bool))
    with torch.no_grad():
        video.conv_in.weight[:, 4:] = 0
    z = clip_of(first, 2)
    assert_close(video(z, T2, told(first), flags), personal(z, T2, told(first)), ONE)


@torch.no_grad()
def test_a_video_ldm_goes_on_with_a_context() -> None:
    image = image_model()
    plain = randomized(inflated(image, "video_ldm", {})[0])
    predicting = build(plain.config.model_copy(update={"given": "context"})).eval()
    start_from_image(predicting, plain)
    z, mask = clip_of(image, 3), torch.ones(2, 1, 3, 6, 4)
    mask[:, :, 0] = 0
    part = told(image).replace(given=torch.randn_like(z) * (1 - mask), mask=mask)
    assert_close(predicting(z, T2, part), plain(z, T2, told(image)), ONE)


def test_what_does_not_fit_is_refused() -> None:
    image = image_model()
    for kind, fields, message in (
        ("latte", {}, "a Unet does not become latte: .* a U-Net svd, .*video_ldm"),
        ("video_ldm", {"num_heads": 4}, r"heads \(number, size\)"),
        ("video_ldm", {"block_out_channels": [8, 24]}, "block_out_channels: the image model has"),
        ("modelscope", {"alpha": 0.5}, "unknown key 'alpha'"),
    ):
        with pytest.raises(InputError, match=message):
            inflated(image, kind, fields)
    video, _ = inflated(image, "video_ldm", {})
    with pytest.raises(InputError, match=r"of images to start from, got one with .*after_resnet"):
        inflated(video, "modelscope", {})
    beside = image_model(concatenated={"low_resolution": 3})
    with pytest.raises(InputError, match="3 channels of low_resolution"):
        start_from_image(video, beside)
