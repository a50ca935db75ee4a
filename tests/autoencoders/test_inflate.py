"""Initialisation of OD-VAE from an image autoencoder: the tail equation, exactly."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch

from kinolab.autoencoders import (
    DpVaeConfig,
    ImageAutoencoder,
    ImageConfig,
    OdVaeConfig,
    Taesd,
    TaesdConfig,
    inflate,
    inflate_dpvae,
    inflate_taesd,
)
from kinolab.autoencoders.inflate import Init, matching_taesd
from kinolab.autoencoders.odvae import Variant
from kinolab.config import load_config
from kinolab.errors import InputError
from kinolab.layers.causal_resampling import ResidualTimePool
from tests.closeness import NETWORK, assert_close

pytestmark = pytest.mark.slow  # many short ones, which take long together

TINY: dict[str, Any] = {
    "hidden_size": 4,
    "hidden_size_mult": (1, 2, 2, 2),
    "num_res_blocks": 1,
    "norm_num_groups": 2,
    "latent_channels": 5,
}


@pytest.fixture
def image() -> ImageAutoencoder:
    """An image autoencoder with biases and norms away from their initial values, and its own latent scale."""
    config = ImageConfig(
        block_out_channels=(4, 8, 8, 8), layers_per_block=1, norm_num_groups=2, latent_channels=5, latent_scale=1.5
    )
    model = ImageAutoencoder(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.set_scaling(torch.linspace(-0.2, 0.2, 5), torch.linspace(0.8, 1.2, 5))
    return model.eval()


@pytest.mark.parametrize("variant", get_args(Variant))
@pytest.mark.parametrize("init", ["tail", "average"])
@pytest.mark.parametrize(("ratio", "resampling"), [(4, "merged"), (8, "merged"), (4, "separate"), (4, "residual")])
def test_an_image_is_encoded_and_decoded_as_by_the_image_autoencoder(
    image: ImageAutoencoder, variant: Variant, init: Init, ratio: int, resampling: str
) -> None:
    config = {**TINY, "variant": variant, "temporal_ratio": ratio, "resampling": resampling}
    model = inflate(image, load_config(OdVaeConfig, config), init)
    picture = torch.rand(2, 3, 1, 16, 16) * 2 - 1
    with torch.no_grad():
        ours, theirs = model.encode(picture), image.encode(picture)
        assert_close(ours.mean, theirs.mean, within=NETWORK)
        assert_close(ours.logvar, theirs.logvar, within=NETWORK)
        assert_close(model.decode(theirs.mean), image.decode(theirs.mean), within=NETWORK)


def test_residual_resampling_begins_as_the_identity_of_the_latest_frame(image: ImageAutoencoder) -> None:
    model = inflate(image, load_config(OdVaeConfig, {**TINY, "resampling": "residual"}), "tail")
    layer = next(m for m in model.modules() if isinstance(m, ResidualTimePool))
    with torch.no_grad():
        layer.mix_factor.fill_(-100.0)  # the convolution alone
        video = torch.rand(1, layer.conv.in_channels, 5, 4, 4)
        assert_close(layer(video), video[:, :, ::2], within=NETWORK)


@pytest.mark.parametrize("norm", ["frame", "clip"])
def test_the_equation_for_images_holds_for_both_norms(image: ImageAutoencoder, norm: str) -> None:
    model = inflate(image, load_config(OdVaeConfig, {**TINY, "norm": norm}), "tail")
    picture = torch.rand(1, 3, 1, 16, 16)
    with torch.no_grad():
        assert_close(model.encode(picture).mean, image.encode(picture).mean, within=NETWORK)


@pytest.mark.parametrize("variant", get_args(Variant))
@pytest.mark.parametrize("ratio", [4, 8])
def test_tail_reads_every_rth_frame_and_repeats_it(image: ImageAutoencoder, variant: Variant, ratio: int) -> None:
    model = inflate(image, load_config(OdVaeConfig, {**TINY, "variant": variant, "temporal_ratio": ratio}), "tail")
    frames = 1 + 2 * ratio
    video = torch.rand(1, 3, frames, 16, 16) * 2 - 1
    with torch.no_grad():
        latents = image.encode(video[:, :, ::ratio]).mean
        assert_close(model.encode(video).mean, latents, within=NETWORK)
        sources = [math.ceil(t / ratio) for t in range(frames)]
        assert_close(model.decode(latents), image.decode(latents)[:, :, sources], within=NETWORK)


def test_average_treats_a_still_clip_as_an_image(image: ImageAutoencoder) -> None:
    model = inflate(image, OdVaeConfig(**TINY), "average")
    picture = torch.rand(1, 3, 1, 16, 16)
    with torch.no_grad():
        latent = image.encode(picture).mean
        assert_close(
            model.encode(picture.expand(-1, -1, 5, -1, -1)).mean, latent.expand(-1, -1, 2, -1, -1), within=NETWORK
        )


def test_tail_kernels_are_zero_but_for_the_last_slice(image: ImageAutoencoder) -> None:
    model = inflate(image, OdVaeConfig(**TINY), "tail")
    kernel = model.decoder.get_parameter("up.0.block.0.conv1.conv.weight")
    assert torch.equal(kernel[:, :, -1], image.decoder.get_parameter("up_blocks.3.resnets.0.conv1.weight"))
    assert not kernel[:, :, :-1].any()


def test_random_takes_nothing_and_every_init_is_a_copy(image: ImageAutoencoder) -> None:
    config = OdVaeConfig(**TINY)
    fresh, tail = inflate(image, config, "random"), inflate(image, config, "tail")
    assert fresh.state_dict().keys() == tail.state_dict().keys()
    assert fresh.decoder.get_parameter("conv_in.conv.weight").any(dim=2).all()
    before = image.encoder.conv_in.weight.clone()
    with torch.no_grad():
        for parameter in tail.parameters():
            parameter.zero_()
    assert torch.equal(image.encoder.conv_in.weight, before)


def test_no_attention_and_no_quant_convolutions() -> None:
    source = ImageAutoencoder(
        ImageConfig(
            block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2, mid_block_attention=False,
            use_quant_conv=False, use_post_quant_conv=False,
        )
    )  # fmt: skip
    config = OdVaeConfig(
        hidden_size=4, hidden_size_mult=(1, 2), num_res_blocks=1, norm_num_groups=2, temporal_ratio=2,
        mid_attention="none", use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    model = inflate(source, config)
    picture = torch.rand(1, 3, 1, 4, 4)
    with torch.no_grad():
        assert_close(
            model.decode(model.encode(picture).mean), source.decode(source.encode(picture).mean), within=NETWORK
        )


def test_a_config_that_does_not_fit_is_named(image: ImageAutoencoder) -> None:
    wrong = OdVaeConfig(**{**TINY, "latent_channels": 4, "hidden_size_mult": (1, 2, 2, 4)})
    with pytest.raises(InputError, match=r"\(4, 8, 8, 8\), got \(4, 8, 8, 16\).*latent_channels: expected 5, got 4"):
        inflate(image, wrong)


TAESD = {
    "plain": TaesdConfig(width=8, encoder_blocks=(1, 1, 2), decoder_widths=(8, 8, 8), decoder_blocks=(2, 1, 1)),
    "global part": TaesdConfig(
        width=8, encoder_blocks=(1, 1, 1), decoder_widths=(8, 8, 8), decoder_blocks=(1, 1, 1), global_part=True,
        latent_channels=8, latent_scale=0.5, latent_shift=0.1,
    ),
    "stem": TaesdConfig(
        width=8, encoder_blocks=(1, 1), stem=(4, 8), decoder_widths=(12, 8, 8, 4), decoder_blocks=(1, 1, 1, 1)
    ),
}  # fmt: skip


def taesd(name: str) -> Taesd:
    model = Taesd(TAESD[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("variant", get_args(Variant))
@pytest.mark.parametrize("name", TAESD)
@torch.no_grad()
def test_a_causal_taesd_begins_as_the_image_autoencoder(name: str, variant: Variant) -> None:
    image = taesd(name)
    ratio = 2 if name == "stem" else 4
    for init in get_args(Init)[:2]:
        model = inflate_taesd(image, matching_taesd(image.config, {"variant": variant, "temporal_ratio": ratio}), init)
        picture = torch.rand(2, 3, 1, 16, 16) * 2 - 1
        latents = image.encode(picture).mean
        assert_close(model.encode(picture).mean, latents, within=NETWORK)
        assert_close(model.decode(latents), image.decode(latents), within=NETWORK)
        still = model.encode(picture.expand(-1, -1, 1 + ratio, -1, -1)).mean
        assert_close(still, latents.expand(-1, -1, 2, -1, -1), within=NETWORK)
    model = inflate_taesd(image, matching_taesd(image.config, {"variant": variant, "temporal_ratio": ratio}))
    video = torch.rand(1, 3, 1 + 2 * ratio, 16, 16) * 2 - 1
    latents = image.encode(video[:, :, ::ratio]).mean
    assert_close(model.encode(video).mean, latents, within=NETWORK)
    sources = [math.ceil(t / ratio) for t in range(1 + 2 * ratio)]
    assert_close(model.decode(latents), image.decode(latents)[:, :, sources], within=NETWORK)


@pytest.mark.parametrize("variant", get_args(Variant))
@pytest.mark.parametrize("name", ["plain", "global part"])
@torch.no_grad()
def test_a_dpvae_around_taesd_begins_as_the_image_autoencoder(name: str, variant: Variant) -> None:
    image = taesd(name)
    config = DpVaeConfig(image=image.config, variant=variant, temporal_ratio=4, group_frames=9)
    assert load_config(DpVaeConfig, config.model_dump(mode="json")) == config
    model = inflate_dpvae(image, config).eval()
    assert model.image is not None and not any(p.requires_grad for p in model.image.parameters())
    video = torch.rand(1, 3, 14, 16, 16) * 2 - 1  # a group of nine frames and one of five
    latents = image.encode(video[:, :, [0, 4, 8, 9, 13]]).mean
    assert_close(model.encode(video).mean, latents, within=NETWORK)
    sources = [0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 4, 4, 4, 4]
    assert_close(model.decode(latents), image.decode(latents)[:, :, sources], within=NETWORK)
    parts = torch.cat([p.mean for p in model.encode_stream(video.split(4, dim=2))], dim=2)
    assert_close(parts, latents, within=NETWORK)
    for parameter in model.encoder.parameters():  # whatever the weights, a clip at rest costs no residual
        parameter.add_(0.1 * torch.randn_like(parameter))
    still = video[:, :, :1].expand(-1, -1, 9, -1, -1)
    assert_close(model.encode(still).mean, latents[:, :, :1].expand(-1, -1, 3, -1, -1), within=NETWORK)


def test_taesd_configs_that_do_not_fit_are_named() -> None:
    image = taesd("plain")
    with pytest.raises(InputError, match=r"this taesd config .*latent_channels: expected 4, got 16"):
        inflate_taesd(image, matching_taesd(image.config, {"latent_channels": 16}))
    with pytest.raises(InputError, match="is of images: set variant"):
        inflate_taesd(image, image.config)
    with pytest.raises(InputError, match=r"this dpvae config .*image.kind: expected taesd, got image"):
        inflate_dpvae(image, DpVaeConfig(temporal_ratio=4))
    video = matching_taesd(image.config, {})
    with pytest.raises(InputError, match=r"got a video's: image.variant outer2d"):
        load_config(DpVaeConfig, {"image": video.model_dump()})
    with pytest.raises(InputError, match="time_steps 'early' is for image autoencoders of kind image"):
        load_config(DpVaeConfig, {"image": image.config.model_dump(), "time_steps": "early"})
    with pytest.raises(InputError, match=r"unknown key 'image.witdh', did you mean 'width'"):
        load_config(DpVaeConfig, {"image": {"kind": "taesd", "witdh": 8}})
