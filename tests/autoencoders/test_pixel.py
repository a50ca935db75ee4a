"""Pixels as latents: the identity, whole and as a stream, and what a person gets by the name that ships."""

from __future__ import annotations

import pytest
import torch

from kinolab.autoencoders import PixelAutoencoder, PixelConfig
from kinolab.errors import InputError
from kinolab.models import VideoModel, load_autoencoder
from tests.closeness import assert_close, assert_same

CLIP = torch.rand(2, 3, 5, 7, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_what_is_encoded_is_the_clip_to_the_bit() -> None:
    model = load_autoencoder("pixels", device="cpu")
    assert isinstance(model, PixelAutoencoder)
    posterior = model.encode(CLIP)
    assert_same(posterior.mean, CLIP)
    assert_same(model.decode(posterior.mean), CLIP)
    assert float(posterior.logvar.exp().max()) < 1e-12
    assert model.spec.latent_shape(5, 7, 6) == (3, 5, 7, 6) and model.compression(5, 7, 6) == 1


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (2, 3), (5,)])
def test_streams_are_exact(sizes: tuple[int, ...]) -> None:
    model = PixelAutoencoder(PixelConfig(latent_scale=2.0, latent_shift=0.1))
    whole = model.encode(CLIP).mean
    assert_same(torch.cat([p.mean for p in model.encode_stream(CLIP.split(sizes, 2))], 2), whole)
    assert_same(torch.cat(list(model.decode_stream(whole.split(sizes, 2))), 2), model.decode(whole))


def test_shift_and_scale_are_undone() -> None:
    model = PixelAutoencoder(PixelConfig(latent_scale=2.0, latent_shift=0.1))
    assert_close(model.encode(CLIP).mean, (CLIP - 0.1) * 2)
    assert_close(model.decode(model.encode(CLIP).mean), CLIP)
    assert_same(model.state_dict()["latent_scale"], torch.full((3,), 2.0))


def test_other_channels_are_refused_and_it_generates_nothing() -> None:
    model = PixelAutoencoder(PixelConfig())
    with pytest.raises(InputError, match=r"expected video \(B, 3, T, H, W\)"):
        model.encode(CLIP[:, :1])
    with pytest.raises(InputError, match=r"expected latents \(B, 3, T, H, W\)"):
        model.decode(CLIP[:, :1])
    with pytest.raises(InputError, match="holds an autoencoder and no denoiser"):
        VideoModel.load("pixels", device="cpu")
