"""The image autoencoder: parity with diffusers, frames by themselves, latent scaling, bounded chunks."""

from __future__ import annotations

import warnings

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from kinolab.autoencoders import ImageAutoencoder, ImageConfig, build
from kinolab.autoencoders import image as image_module
from kinolab.errors import InputError
from kinolab.layers.normalization import fold_frames
from tests.closeness import NETWORK, assert_close

TINY = ImageConfig(block_out_channels=(8, 8, 16), layers_per_block=1, norm_num_groups=4)


@pytest.fixture
def video() -> Tensor:
    return torch.rand(2, 3, 3, 16, 24) * 2 - 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, "layers_per_block": 2},
        {"mid_block_attention": False, "block_out_channels": (8, 16)},
    ],
    ids=["sd1", "sd3", "no attention"],
)
def test_parity_with_diffusers(changes: dict, video: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers = pytest.importorskip("diffusers")
        config = TINY.model_copy(update=changes)
        levels = len(config.block_out_channels)
        reference = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.block_out_channels,
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
            norm_num_groups=config.norm_num_groups,
            use_quant_conv=config.use_quant_conv,
            use_post_quant_conv=config.use_post_quant_conv,
            mid_block_add_attention=config.mid_block_attention,
        ).eval()
    ours = ImageAutoencoder(config)
    ours.load_state_dict(reference.state_dict(), strict=True)
    with torch.no_grad():
        posterior, expected = ours.encode(video), reference.encode(fold_frames(video)).latent_dist
        assert_close(fold_frames(posterior.mean), expected.mean, within=NETWORK)
        assert_close(fold_frames(posterior.logvar), expected.logvar, within=NETWORK)
        decoded = reference.decode(expected.mean).sample
        assert_close(fold_frames(ours.decode(posterior.mean)), decoded, within=NETWORK)


def test_spec_describes_what_comes_out(video: Tensor) -> None:
    model = build(TINY)
    mean = model.encode(video).mean
    assert mean.shape[1:] == model.spec.latent_shape(*video.shape[2:])
    assert model.decode(mean).shape == video.shape


def test_frames_do_not_see_each_other_and_streams_are_exact(video: Tensor) -> None:
    model = build(TINY)
    with torch.no_grad():
        whole = model.encode(video)
        alone = model.encode(video[:, :, 1:2]).mean
        assert_close(whole.mean[:, :, 1:2], alone, within=NETWORK)
        parts = [p.mean for p in model.encode_stream(video.split([2, 1], dim=2))]
        assert_close(torch.cat(parts, dim=2), whole.mean, within=NETWORK)
        frames = torch.cat(list(model.decode_stream(whole.mean.split(1, dim=2))), dim=2)
        assert_close(frames, model.decode(whole.mean), within=NETWORK)


def test_long_clips_go_through_the_network_in_bounded_parts(monkeypatch: pytest.MonkeyPatch, video: Tensor) -> None:
    model = ImageAutoencoder(TINY)
    seen: list[int] = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    with torch.no_grad():
        whole = model.encode(video).mean
        monkeypatch.setattr(image_module, "PIXELS_AT_ONCE", 4 * 16 * 24)
        parts = model.encode(video).mean
    assert seen == [6, 4, 2]
    assert_close(parts, whole, within=NETWORK)


def test_latents_are_shifted_and_scaled_and_decode_undoes_it(video: Tensor) -> None:
    raw = ImageAutoencoder(TINY)
    scaled = ImageAutoencoder(TINY.model_copy(update={"latent_shift": 0.5, "latent_scale": 2.0}))
    weights = {k: v for k, v in raw.state_dict().items() if not k.startswith("latent_")}
    scaled.load_state_dict(weights)  # public weights carry no scaling: that of the config stays
    with torch.no_grad():
        a, b = raw.encode(video), scaled.encode(video)
        assert_close(b.mean, (a.mean - 0.5) * 2.0, within=NETWORK)
        assert_close(b.logvar, a.logvar + 2 * torch.tensor(2.0).log(), within=NETWORK)
        assert_close(scaled.decode(b.mean), raw.decode(a.mean), within=NETWORK)


def test_saved_scaling_wins_over_the_config() -> None:
    source = ImageAutoencoder(TINY)
    source.set_scaling(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.full((4,), 0.25))
    copy = ImageAutoencoder(TINY)
    copy.load_state_dict(source.state_dict())
    assert copy.latent_shift.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert copy.latent_scale.tolist() == [0.25] * 4


def test_half_precision_is_close(video: Tensor) -> None:
    model = ImageAutoencoder(TINY)
    with torch.no_grad():
        exact = model.decode(model.encode(video).mean)
        with torch.autocast("cpu", torch.bfloat16):
            autocast = model.decode(model.encode(video).mean)
        half = model.to(torch.bfloat16)
        rounded = half.decode(half.encode(video).mean)
    assert rounded.dtype == torch.bfloat16
    for other in (autocast, rounded):
        assert (other.float() - exact).square().mean().sqrt() < 0.06 * exact.std()


def test_mistakes_are_named(video: Tensor) -> None:
    model = build(TINY)
    with pytest.raises(InputError, match=r"multiples of 4, got 15 x 24"):
        model.encode(video[..., :15, :])
    with pytest.raises(InputError, match=r"expected latents \(B, 4, T, H, W\)"):
        model.decode(torch.zeros(1, 8, 1, 4, 4))
    with pytest.raises(ValidationError, match="norm_num_groups=32 divides"):
        ImageConfig(block_out_channels=(8, 16))
