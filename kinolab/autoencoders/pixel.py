"""No autoencoder: pixels are the latents, so that any denoiser runs in pixel space as it does in latents.

Video Diffusion Models (Ho et al. 2022) and the base models of Imagen Video work there. Nothing is compressed and
nothing is lost. `pixels` is the name of one that ships, for the `autoencoder` of a recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import Field
from torch import Tensor

from kinolab.autoencoders.base import Autoencoder, AutoencoderSpec, Posterior
from kinolab.contracts.table import KindConfig
from kinolab.layers.latent_scaling import ScaledLatents


class PixelConfig(KindConfig):
    """The pixels themselves."""

    kind: Literal["pixel"] = "pixel"
    channels: int = Field(3, ge=1)
    """Channels of the pixels, and of the latents."""
    latent_shift: float = 0.0
    """Latents = (pixels - shift) * scale, of pixels in [-1, 1]."""
    latent_scale: float = 1.0
    """See `latent_shift`; 2 brings pixels of a standard deviation of 0.5 to 1. Thresholding then has a limit of 2."""


class PixelAutoencoder(ScaledLatents, Autoencoder):
    """The identity up to shift and scale; temporal and spatial ratio 1. With the default ones exact to the bit."""

    Config = PixelConfig
    untrainable = "pixels as they are have no weights to be trained, and are not trained"

    def __init__(self, config: PixelConfig) -> None:
        super().__init__()
        self.config = config
        C = config.channels
        self.spec = AutoencoderSpec(C, temporal_ratio=1, spatial_ratio=1, causal=True, channels=C)
        self.register_scaling(C, config.latent_shift, config.latent_scale)

    @property
    def keeps_scaling(self) -> bool:
        """Shift and scale are the config's."""
        return True

    def encode(self, video: Tensor) -> Posterior:
        """(B, C, T, H, W) in [-1, 1] -> the same as latents, with no variance to speak of."""
        self.check_video(video)
        return Posterior.certain(self.to_normalised(video))

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same as pixels."""
        self.check_latents(latents)
        return self.to_raw(latents)

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Posterior]:
        """One posterior per chunk (B, C, t, H, W); any chunking is exact."""
        for chunk in chunks:
            yield self.encode(chunk)

    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """One video chunk per chunk of latents (B, C, t, H, W); any chunking is exact."""
        for chunk in chunks:
            yield self.decode(chunk)
