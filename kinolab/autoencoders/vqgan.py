"""VQGAN, frame by frame: an image is a grid of codes from a learned codebook.

Esser, Rombach and Ommer, "Taming Transformers for High-Resolution Image Synthesis" (2021). Encoder and decoder are
those of latent diffusion, with attention at some resolutions. As an autoencoder with continuous latents: the
posterior's mean is the quantised embedding (and its deviation next to nothing), `indices` gives the codes. `decode`
takes any latents as they are and does not quantise them again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from kinolab.autoencoders.base import Autoencoder, AutoencoderSpec, Posterior
from kinolab.contracts.table import KindConfig
from kinolab.layers.codebook import Codebook
from kinolab.layers.image_coder import CoderShape, Decoder, Encoder, per_frame
from kinolab.layers.latent_scaling import ScaledLatents

PIXELS_AT_ONCE = 2**20
"""Without gradients, frames go through the network in chunks of about this many pixels: memory stays bounded."""


class VqganConfig(KindConfig):
    """VQGAN, frame by frame, with the names of its public configs; the defaults are the ImageNet model's, f = 16."""

    kind: Literal["vqgan"] = "vqgan"
    ch: int = Field(128, ge=1)
    """Width of the finest resolution."""
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    """Width of each resolution as a multiple of `ch`, finest (1) first; every step to the next halves the sides."""
    num_res_blocks: int = Field(2, ge=1)
    """Residual blocks per resolution in the encoder; the decoder has one more."""
    resolution: int = Field(256, ge=1)
    """Side of the images it was trained on, which `attn_resolutions` refers to; other sizes go through as well."""
    attn_resolutions: tuple[int, ...] = (16,)
    """Sides, of `resolution` halved 0, 1, ... times, at which every residual block is followed by self-attention."""
    mid_block_attention: bool = True
    """Self-attention between the last two blocks of the coarsest resolution."""
    z_channels: int = Field(256, ge=1)
    """Channels that the encoder ends in and the decoder begins with."""
    embed_dim: int = Field(256, ge=1)
    """Width of a code's vector: the channels of the latents."""
    n_embed: int = Field(1024, ge=2)
    """Codes in the codebook: 1024 or 16384 in the ImageNet models."""
    channels: int = Field(3, ge=1)
    """Channels of the pixels."""
    norm_num_groups: int = Field(32, ge=1)
    """Groups of each GroupNorm; must divide every width."""
    latent_shift: float = 0.0
    """Normalised latents = (vector - shift) * scale."""
    latent_scale: float = 1.0
    """See `latent_shift`."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each resolution, finest first."""
        return tuple(self.ch * m for m in self.ch_mult)

    @property
    def attention_levels(self) -> tuple[int, ...]:
        """The resolutions with self-attention, 0 the finest."""
        return tuple(i for i in range(len(self.ch_mult)) if self.resolution >> i in self.attn_resolutions)

    @model_validator(mode="after")
    def _check(self) -> VqganConfig:
        if not self.ch_mult or self.ch_mult[0] != 1 or min(self.ch_mult) < 1:
            raise ValueError(f"expected a ch_mult that begins with 1, as (1, 1, 2, 2, 4), got {self.ch_mult}")
        odd = [width for width in self.widths if width % self.norm_num_groups]
        if odd:
            raise ValueError(f"expected widths ch * ch_mult that norm_num_groups={self.norm_num_groups} divides; {odd}")
        sides = [self.resolution >> i for i in range(len(self.ch_mult))]
        other = [side for side in self.attn_resolutions if side not in sides]
        if other:
            raise ValueError(f"expected attn_resolutions among {sides}, got {other}")
        return self


class Vqgan(ScaledLatents, Autoencoder):
    """VQGAN on every frame of a video; temporal ratio 1, spatial ratio 2^(resolutions - 1)."""

    Config = VqganConfig

    untrainable = "a discrete autoencoder is read from its public weights and measured, not trained"

    def __init__(self, config: VqganConfig) -> None:
        super().__init__()
        self.config = config
        self.spec = AutoencoderSpec(
            latent_channels=config.embed_dim,
            temporal_ratio=1,
            spatial_ratio=2 ** (len(config.ch_mult) - 1),
            causal=True,
            channels=config.channels,
        )
        self.register_scaling(config.embed_dim, config.latent_shift, config.latent_scale)
        shape = CoderShape(
            config.widths,
            config.num_res_blocks,
            config.norm_num_groups,
            config.mid_block_attention,
            config.attention_levels,
        )
        self.encoder = Encoder(config.channels, shape, config.z_channels)
        self.quant_conv = nn.Conv2d(config.z_channels, config.embed_dim, 1)
        self.quantize = Codebook(config.n_embed, config.embed_dim)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.z_channels, 1)
        self.decoder = Decoder(config.z_channels, shape, config.channels)

    @property
    def bits_per_latent(self) -> float:
        """log2 of the number of codes."""
        return self.quantize.bits

    def indices(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1] -> codes (B, T, H/ratio, W/ratio), int64."""
        self.check_video(video)
        x = video.to(self.encoder.conv_in.weight.dtype)
        return self.quantize.nearest(per_frame(lambda x: self.quant_conv(self.encoder(x)), x, PIXELS_AT_ONCE))

    def decode_indices(self, indices: Tensor) -> Tensor:
        """Codes (B, T, H', W') -> (B, 3, T, H'*ratio, W'*ratio); raises InputError for a code that there is not."""
        return self._decode(self.quantize.look_up(indices))

    def encode(self, video: Tensor) -> Posterior:
        """(B, 3, T, H, W) in [-1, 1] -> a posterior whose mean is the codes' vectors, (B, C', T, H/ratio, W/ratio)."""
        return Posterior.certain(self.to_normalised(self.quantize.look_up(self.indices(video))))

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C', T, H', W') -> (B, 3, T, H'*ratio, W'*ratio), every frame by itself."""
        self.check_latents(latents)
        return self._decode(self.to_raw(latents))

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Posterior]:
        """One posterior per chunk (B, 3, t, H, W); frames are independent, so that any chunking is exact."""
        for chunk in chunks:
            yield self.encode(chunk)

    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """One video chunk per chunk of latents (B, C', t, H', W'); any chunking is exact."""
        for chunk in chunks:
            yield self.decode(chunk)

    def _decode(self, vectors: Tensor) -> Tensor:
        budget = PIXELS_AT_ONCE // self.spec.spatial_ratio**2
        z = vectors.to(self.decoder.conv_in.weight.dtype)
        return per_frame(lambda z: self.decoder(self.post_quant_conv(z)), z, budget)
