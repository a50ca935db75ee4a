"""The image autoencoder of Stable Diffusion (AutoencoderKL), applied to a video frame by frame.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (2022). Parameter names are those of
the diffusers library, so that public weights load as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import model_validator
from torch import Tensor, nn

from kinolab.autoencoders.base import Autoencoder, AutoencoderSpec, Posterior
from kinolab.contracts.table import KindConfig
from kinolab.layers.image_coder import CoderShape, Decoder, Encoder, per_frame
from kinolab.layers.latent_scaling import ScaledLatents

PIXELS_AT_ONCE = 2**20
"""Without gradients, frames go through the network in chunks of about this many pixels: memory stays bounded."""


class ImageConfig(KindConfig):
    """The image autoencoder of Stable Diffusion, frame by frame; the defaults are those of SD 1.x and 2.x."""

    kind: Literal["image"] = "image"
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    """Width of each resolution, finest first; every step to the next one halves the sides."""
    layers_per_block: int = 2
    """Residual blocks per resolution in the encoder; the decoder has one more."""
    latent_channels: int = 4
    """Channels of the latents: 4 in SD 1.x, 2.x and XL, 16 in SD 3."""
    channels: int = 3
    """Channels of the pixels."""
    norm_num_groups: int = 32
    """Groups of each GroupNorm; must divide every width."""
    use_quant_conv: bool = True
    """A 1x1 convolution after the encoder (SD 3 has none)."""
    use_post_quant_conv: bool = True
    """A 1x1 convolution before the decoder (SD 3 has none)."""
    mid_block_attention: bool = True
    """Self-attention over the pixels of the coarsest resolution."""
    latent_shift: float = 0.0
    """Normalised latents = (raw - shift) * scale; SD 3: 0.0609."""
    latent_scale: float = 1.0
    """See `latent_shift`; SD 1.x and 2.x: 0.18215, SD 3: 1.5305."""

    @model_validator(mode="after")
    def _check(self) -> ImageConfig:
        if not self.block_out_channels:
            raise ValueError("expected at least one width in block_out_channels, got none")
        odd = [width for width in self.block_out_channels if width % self.norm_num_groups]
        if odd:
            raise ValueError(f"expected block_out_channels that norm_num_groups={self.norm_num_groups} divides; {odd}")
        return self

    @property
    def spatial_ratio(self) -> int:
        """2^(resolutions - 1)."""
        return 2 ** (len(self.block_out_channels) - 1)


class ImageAutoencoder(ScaledLatents, Autoencoder):
    """AutoencoderKL on every frame of a video; temporal ratio 1, spatial ratio 2^(resolutions - 1)."""

    Config = ImageConfig

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        self.config = config
        self.spec = AutoencoderSpec(
            latent_channels=config.latent_channels,
            temporal_ratio=1,
            spatial_ratio=config.spatial_ratio,
            causal=True,
            channels=config.channels,
        )
        self.register_scaling(config.latent_channels, config.latent_shift, config.latent_scale)
        C = config.latent_channels
        shape = CoderShape(
            config.block_out_channels, config.layers_per_block, config.norm_num_groups, config.mid_block_attention
        )
        self.encoder = Encoder(config.channels, shape, 2 * C)
        self.decoder: nn.Module = self.make_decoder(shape)
        self.quant_conv = nn.Conv2d(2 * C, 2 * C, 1) if config.use_quant_conv else nn.Identity()
        self.post_quant_conv = nn.Conv2d(C, C, 1) if config.use_post_quant_conv else nn.Identity()

    def make_decoder(self, shape: CoderShape) -> nn.Module:
        """Raw latents of frames (N, C', H', W') -> images."""
        return Decoder(self.config.latent_channels, shape, self.config.channels)

    def encode(self, video: Tensor) -> Posterior:
        """(B, 3, T, H, W) in [-1, 1] -> posterior over (B, C', T, H/ratio, W/ratio), every frame by itself."""
        self.check_video(video)
        x = video.to(self.encoder.conv_in.weight.dtype)
        moments = per_frame(lambda x: self.quant_conv(self.encoder(x)), x, PIXELS_AT_ONCE)
        return Posterior(*self.normalise_moments(moments))

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C', T, H', W') -> (B, 3, T, H'*ratio, W'*ratio), every frame by itself."""
        self.check_latents(latents)
        budget = PIXELS_AT_ONCE // self.spec.spatial_ratio**2
        raw = self.to_raw(latents).to(self.encoder.conv_in.weight.dtype)
        return per_frame(lambda z: self.decoder(self.post_quant_conv(z)), raw, budget)

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Posterior]:
        """One posterior per chunk (B, 3, t, H, W); frames are independent, so that any chunking is exact."""
        for chunk in chunks:
            yield self.encode(chunk)

    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """One video chunk per chunk of latents (B, C', t, H', W'); any chunking is exact."""
        for chunk in chunks:
            yield self.decode(chunk)
