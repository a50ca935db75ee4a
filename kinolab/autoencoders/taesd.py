"""TAESD, tiny autoencoders that read and write the latents of large ones: every frame by itself, or inflated to video.

Bohan, "Tiny AutoEncoder for Stable Diffusion" (https://github.com/madebyollin/taesd), distilled from the autoencoders
of Stable Diffusion 1.x and XL (4 channels), SD 3 and FLUX.1 (16), FLUX.2 (32, with a global part) and Sana (32 at ratio
32). Their published form takes pixels in [0, 1]; here they are in [-1, 1] like all others. An encoder without a
posterior: its latents come with next to no deviation.

With a `variant` other than `image` it is a causal video autoencoder of 3D convolutions, which `inflate_taesd` fills
from a published one; 1 + r*k frames then give 1 + k latents, and an image is a clip of one frame.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor

from kinolab.autoencoders.base import AutoencoderSpec, CausalAutoencoder, Posterior
from kinolab.contracts.table import KindConfig
from kinolab.layers.causal_conv import Stream
from kinolab.layers.image_coder import per_frame
from kinolab.layers.latent_scaling import ScaledLatents
from kinolab.layers.normalization import fast_layout
from kinolab.layers.tiny_coder import Decoder, Encoder, TinyCoderShape, TinyVariant

PIXELS_AT_ONCE = 2**20
"""Without gradients, frames that are independent go through in chunks of about this many pixels."""


class TaesdConfig(KindConfig):
    """TAESD; the defaults are those for Stable Diffusion 1.x and 2.x."""

    kind: Literal["taesd"] = "taesd"
    latent_channels: int = Field(4, ge=1)
    """Channels of the latents: 4 for SD 1.x and XL, 16 for SD 3 and FLUX.1, 32 for FLUX.2 and Sana."""
    global_part: bool = False
    """Whether the blocks at the lowest resolution see whole frames, as FLUX.2's do."""
    width: int = Field(64, ge=1)
    """Channels of the encoder at every resolution."""
    encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    """Residual blocks per resolution of the encoder, finest first."""
    stem: tuple[int, ...] = ()
    """Widths of strided convolutions with ReLU that the encoder begins with, the last one `width`: (32, 64) for Sana.
    Without, one convolution at full size."""
    decoder_widths: tuple[int, ...] = (64, 64, 64, 64)
    """Channels per resolution of the decoder, coarsest first: (256, 128, 64, 64, 64, 64) for Sana."""
    decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    """Residual blocks per resolution of the decoder, coarsest first."""
    channels: int = Field(3, ge=1)
    """Channels of the pixels."""
    variant: TinyVariant = "image"
    """Which convolutions are 2D: all (`image`), or those of a video autoencoder as in `odvae`: none, every second and
    third of a block, the outer ones of encoder and decoder, or of the encoder only."""
    temporal_ratio: Literal[1, 2, 4, 8] = 1
    """Frames per latent after the first; 1 for `image`."""
    latent_shift: float = 0.0
    """Normalised latents = (raw - shift) * scale; the published latents are of about unit deviation as they are."""
    latent_scale: float = 1.0
    """See `latent_shift`."""
    gradient_checkpointing: bool = False
    """Recompute the residual blocks in the backward pass: less memory, about a third more time in training."""

    @model_validator(mode="after")
    def _check(self) -> TaesdConfig:
        if not self.encoder_blocks or len(self.decoder_widths) != len(self.decoder_blocks):
            raise ValueError("expected at least one resolution, and as many decoder_widths as decoder_blocks")
        steps = len(self.encoder_blocks) - 1 + len(self.stem)
        if steps != len(self.decoder_blocks) - 1:
            raise ValueError(
                f"expected encoder and decoder of one ratio, got {2**steps} (encoder_blocks and stem) and "
                f"{2 ** (len(self.decoder_blocks) - 1)} (decoder_blocks)"
            )
        if self.stem and self.stem[-1] != self.width:
            raise ValueError(f"expected a stem that ends with the width {self.width}, got {self.stem}")
        if self.variant == "image" and self.temporal_ratio > 1:
            raise ValueError(
                f"variant 'image' takes every frame by itself: for temporal_ratio {self.temporal_ratio} choose "
                "outer2d, encoder_outer2d, half2d or all3d"
            )
        most = 2 ** (min(len(self.encoder_blocks), len(self.decoder_blocks)) - 1)
        if self.temporal_ratio > most:
            raise ValueError(f"expected a temporal_ratio of at most {most}, as time is halved where space is")
        return self

    @property
    def spatial_ratio(self) -> int:
        """2^(resolutions of the decoder - 1)."""
        return 2 ** (len(self.decoder_blocks) - 1)

    def coder(self, variant: TinyVariant, temporal_ratio: int, checkpointing: bool = False) -> TinyCoderShape:
        """What makes up encoder and decoder, as those of a video of this temporal ratio."""
        return TinyCoderShape(
            width=self.width,
            encoder_blocks=self.encoder_blocks,
            stem=self.stem,
            decoder_widths=self.decoder_widths,
            decoder_blocks=self.decoder_blocks,
            global_part=self.global_part,
            variant=variant,
            temporal_ratio=temporal_ratio,
            checkpointing=checkpointing,
        )


class Taesd(ScaledLatents, CausalAutoencoder):
    """TAESD: (B, 3, 1 + r*k, H, W) <-> (B, C', 1 + k, H/s, W/s), r = 1 for the published models."""

    Config = TaesdConfig

    def __init__(self, config: TaesdConfig) -> None:
        super().__init__()
        self.config = config
        self.spec = AutoencoderSpec(
            latent_channels=config.latent_channels,
            temporal_ratio=config.temporal_ratio,
            spatial_ratio=config.spatial_ratio,
            causal=True,
            channels=config.channels,
        )
        self.register_scaling(config.latent_channels, config.latent_shift, config.latent_scale)
        shape = config.coder(config.variant, config.temporal_ratio, config.gradient_checkpointing)
        self.encoder = Encoder(config.channels, shape, config.latent_channels)
        self.decoder = Decoder(config.latent_channels, shape, config.channels)

    def _encode(self, video: Tensor, stream: Stream | None) -> Posterior:
        x = video.to(self.encoder.dtype)
        if self.config.variant == "image":
            raw = per_frame(lambda x: self.encoder(x.unsqueeze(2)).squeeze(2), x, PIXELS_AT_ONCE)
        else:
            raw = self.encoder(fast_layout(x), stream)
        return Posterior.certain(self.to_normalised(raw))

    def _decode(self, latents: Tensor, stream: Stream | None) -> Tensor:
        raw = self.to_raw(latents).to(self.encoder.dtype)
        if self.config.variant == "image":
            budget = PIXELS_AT_ONCE // self.spec.spatial_ratio**2
            return per_frame(lambda z: self.decoder(z.unsqueeze(2)).squeeze(2), raw, budget)
        out: Tensor = self.decoder(fast_layout(raw), stream)
        return out
