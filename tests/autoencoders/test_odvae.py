"""OD-VAE: golden parity with the public class, shapes of every variant, tiling, precision, mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from kinolab.autoencoders import OdVae, OdVaeConfig, build
from kinolab.autoencoders.odvae import Variant
from kinolab.config import load_config
from kinolab.errors import InputError
from kinolab.layers.causal_resampling import ResidualTimePool, ResidualTimeUpsample
from tests.closeness import STORED, assert_close

GOLDEN = Path(__file__).parents[1] / "golden"
PUBLIC: dict[str, Any] = {
    "hidden_size": 32,
    "hidden_size_mult": (1, 1, 2, 2),
    "num_res_blocks": 1,
    "norm": "clip",
    "upsampling": "trilinear",
    "mid_attention": "scrambled",
}
TINY: dict[str, Any] = {
    "hidden_size": 4,
    "hidden_size_mult": (1, 2, 2, 2),
    "num_res_blocks": 1,
    "norm_num_groups": 2,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [("odvae_v11", {"variant": "all3d", "resampling": "separate"}), ("odvae_v12", {"variant": "encoder_outer2d"})],
)
def test_golden_numbers_of_the_public_class(name: str, changes: dict[str, Any]) -> None:
    stored = load_file(GOLDEN / f"{name}.safetensors")
    model = OdVae(OdVaeConfig(**PUBLIC, **changes))
    prefix = "weights."
    model.load_state_dict({k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)})
    with torch.no_grad():
        posterior = model.encode(stored["video"])
        image = model.encode(stored["video"][:, :, :1])
        video = model.decode(stored["latent_mean"])
    for ours, key in [
        (posterior.mean, "latent_mean"),
        (posterior.logvar, "latent_logvar"),
        (image.mean, "image_latent_mean"),
        (video, "reconstruction"),
    ]:
        assert_close(ours, stored[key], what=key, within=STORED)


@pytest.mark.parametrize("variant", get_args(Variant))
@pytest.mark.parametrize("ratio", [4, 8])
@pytest.mark.parametrize("resampling", ["merged", "separate", "residual"])
@pytest.mark.slow
def test_shapes_follow_the_spec_for_clips_and_images(variant: Variant, ratio: int, resampling: str) -> None:
    model = build(
        load_config(OdVaeConfig, {**TINY, "variant": variant, "temporal_ratio": ratio, "resampling": resampling})
    )
    assert (model.spec.temporal_ratio, model.spec.spatial_ratio) == (ratio, 8)
    with torch.no_grad():
        for frames in (1, 1 + ratio):
            video = torch.rand(1, 3, frames, 8, 16)
            mean = model.encode(video).mean
            assert mean.shape[1:] == model.spec.latent_shape(frames, 8, 16)
            assert model.decode(mean).shape == video.shape
            assert model.spec.pixel_frames(mean.shape[2]) == frames


def test_variants_have_the_2d_convolutions_that_the_paper_says() -> None:
    def kinds(variant: Variant) -> dict[str, int]:
        model = OdVae(OdVaeConfig(**TINY, variant=variant))
        return {name: m.weight.ndim for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Conv3d)}

    assert set(kinds("all3d").values()) == {5}
    blocks = {k: n for k, n in kinds("half2d").items() if ".conv1" in k or ".conv2" in k}
    assert sum(n == 4 for n in blocks.values()) * 2 == len(blocks)
    outer, encoder_only = kinds("outer2d"), kinds("encoder_outer2d")
    assert outer["encoder.conv_in"] == outer["decoder.conv_out"] == encoder_only["encoder.conv_in"] == 4
    assert outer["encoder.down.1.block.0.conv1"] == outer["decoder.up.1.block.0.conv1"] == 4
    assert outer["encoder.down.2.block.0.conv1.conv"] == outer["decoder.up.2.block.0.conv1.conv"] == 5
    assert all(n == 5 for k, n in encoder_only.items() if k.startswith("decoder."))


def test_early_time_steps_halve_time_at_the_finest_resolutions() -> None:
    late, early = OdVaeConfig(**TINY), OdVaeConfig(**TINY, time_steps="early")
    assert [late.coder.encoder_halves_time(i) for i in range(4)] == [False, True, True, False]
    assert [early.coder.encoder_halves_time(i) for i in range(4)] == [True, True, False, False]
    assert [early.coder.decoder_doubles_time(i) for i in range(4)] == [False, False, True, True]
    assert OdVae(early).encode(torch.zeros(1, 3, 5, 8, 8)).mean.shape == (1, 4, 2, 1, 1)


@pytest.mark.parametrize("norm", ["frame", "clip"])
def test_tiling_joins_groups_that_overlap_by_one_frame(norm: str) -> None:
    model = OdVae(load_config(OdVaeConfig, {**TINY, "norm": norm}))
    video = torch.rand(1, 3, 13, 8, 8)
    with torch.no_grad():
        tiled = model.encode_tiled(video, 9)
        groups = [model.encode(video[:, :, :9]), model.encode(video[:, :, 8:])]
        expected = torch.cat([groups[0].mean, groups[1].mean[:, :, 1:]], dim=2)
        assert_close(tiled.mean, expected)
        assert tiled.mean.shape == tiled.logvar.shape == model.encode(video).mean.shape
        assert_close(model.encode_tiled(video, 17).mean, model.encode(video).mean)

        frames = model.decode_tiled(tiled.mean, 2)
        pairs = [model.decode(tiled.mean[:, :, i : i + 2]) for i in range(3)]
        assert_close(frames, torch.cat([pairs[0], pairs[1][:, :, 1:], pairs[2][:, :, 1:]], dim=2))
        assert frames.shape == video.shape
        assert model.decode_tiled(tiled.mean[:, :, :1], 2).shape[2] == 1


def test_gradient_checkpointing_changes_no_gradient() -> None:
    plain, saving = OdVae(OdVaeConfig(**TINY)), OdVae(OdVaeConfig(**TINY, gradient_checkpointing=True))
    saving.load_state_dict(plain.state_dict())
    video = torch.rand(1, 3, 5, 8, 8)
    for model in (plain, saving):
        model.decode(model.encode(video).mean).square().mean().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        if a.grad is not None:
            assert b.grad is not None
            assert_close(a.grad, b.grad)


@pytest.mark.parametrize("resampling", ["merged", "separate", "residual"])
def test_half_precision_is_close(resampling: str) -> None:
    model = OdVae(load_config(OdVaeConfig, {**TINY, "resampling": resampling}))
    video = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    with torch.no_grad():
        exact = model.decode(model.encode(video).mean)
        with torch.autocast("cpu", torch.bfloat16):
            autocast = model.decode(model.encode(video).mean)
        half = model.to(torch.bfloat16)
        rounded = half.decode(half.encode(video).mean)
    for other in (autocast, rounded):
        assert (other.float() - exact).square().mean().sqrt() < 0.06 * exact.std()


def test_residual_resampling_mixes_a_convolution_with_the_average_and_the_interpolation() -> None:
    """TimeDownsampleRes2x and TimeUpsampleRes2x of Open-Sora-Plan 1.1, written out."""
    down, up = ResidualTimePool(3), ResidualTimeUpsample(3, "trilinear")
    x = torch.randn(2, 3, 5, 4, 4)
    with torch.no_grad():
        down.mix_factor.fill_(-0.4)
        up.mix_factor.fill_(0.3)
        padded = torch.cat([x[:, :, :1], x[:, :, :1], x], dim=2)
        a = torch.sigmoid(torch.tensor(-0.4))
        convolved = F.conv3d(padded, down.conv.weight, down.conv.bias, stride=(2, 1, 1), padding=(0, 1, 1))
        expected = a * F.avg_pool3d(padded, (3, 1, 1), (2, 1, 1)) + (1 - a) * convolved
        assert_close(down(x), expected)
        rest = F.interpolate(x[:, :, 1:], scale_factor=(2.0, 1.0, 1.0), mode="trilinear")
        doubled, a = torch.cat([x[:, :, :1], rest], dim=2), torch.sigmoid(torch.tensor(0.3))
        padded = torch.cat([doubled[:, :, :1], doubled[:, :, :1], doubled], dim=2)
        convolved = F.conv3d(padded, up.conv.conv.weight, up.conv.conv.bias, padding=(0, 1, 1))
        assert_close(up(x), a * doubled + (1 - a) * convolved)
        exact = down(up(x))
        with torch.autocast("cpu", torch.bfloat16):
            assert (down(up(x)).float() - exact).abs().max() < 0.05


def test_posterior_is_in_normalised_units() -> None:
    raw = OdVae(OdVaeConfig(**TINY))
    scaled = OdVae(OdVaeConfig(**TINY, latent_shift=-0.25, latent_scale=4.0))
    scaled.load_state_dict({k: v for k, v in raw.state_dict().items() if not k.startswith("latent_")})
    video = torch.rand(1, 3, 5, 8, 8)
    with torch.no_grad():
        a, b = raw.encode(video), scaled.encode(video)
        assert_close(b.mean, (a.mean + 0.25) * 4.0)
        assert_close(b.logvar, a.logvar + 2 * torch.tensor(4.0).log())
        assert_close(scaled.decode(b.mean), raw.decode(a.mean))


def _mistakes() -> list[tuple[Any, str]]:
    def encode(shape: tuple[int, ...]) -> Any:
        return lambda model: model.encode(torch.zeros(shape))

    def tile(count: int) -> Any:
        return lambda model: model.encode_tiled(torch.zeros(1, 3, 9, 8, 8), count)

    return [
        (encode((1, 3, 6, 8, 8)), r"1 \+ 4\*k frames, got 6; use 5 or 9"),
        (encode((1, 3, 5, 8, 12)), "multiples of 8"),
        (encode((3, 5, 8, 8)), "expected video"),
        (tile(8), r"frames_per_group = 1 \+ 4\*k, got 8"),
        (tile(1), r"frames_per_group = 1 \+ 4\*k, got 1"),
        (lambda model: model.decode_tiled(torch.zeros(1, 4, 3, 1, 1), 1), "at least 2, got 1"),
        (lambda model: model.decode(torch.zeros(1, 3, 1, 1, 1)), "expected latents"),
    ]


@pytest.mark.parametrize(("call", "message"), _mistakes())
def test_mistakes_are_named(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(OdVae(OdVaeConfig(**TINY)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_num_groups": 3}, "divides"),
        ({"hidden_size_mult": (1, 2), "temporal_ratio": 4}, "temporal_ratio of at most the spatial ratio 2"),
        ({"mid_attention": "scrambled"}, "needs norm 'clip'"),
        ({"temporal_ratio": 3}, "temporal_ratio"),
    ],
)
def test_impossible_configs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        OdVaeConfig(**{**TINY, **changes})


def test_last_layer_is_the_decoders_last_convolution() -> None:
    for variant in get_args(Variant):
        weight: Tensor = OdVae(OdVaeConfig(**TINY, variant=variant)).last_layer
        assert weight.shape[:2] == (3, 4)
