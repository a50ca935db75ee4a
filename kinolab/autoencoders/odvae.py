"""OD-VAE: a causal video autoencoder that compresses time and space, with an exact stream.

Chen et al., "OD-VAE: An Omni-dimensional Video Compressor for Improving Latent Video Diffusion Model" (2024).
Parameter names are those of the public CausalVAEModel (Open-Sora-Plan 1.1 and 1.2), so that its weights load as they
are: a 3D causal convolution is `name.conv.weight`, a 2D one `name.weight`.

Frame 0 is a latent by itself; each next latent holds `temporal_ratio` frames. No layer looks ahead (but for the
trilinear upsampling of the public weights), so that a chunk needs only what each layer kept of the chunks before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor

from kinolab.autoencoders.base import AutoencoderSpec, CausalAutoencoder, Posterior
from kinolab.contracts.table import KindConfig
from kinolab.errors import InputError
from kinolab.layers.causal_coder import CausalCoderShape, Decoder, Encoder, MidAttention, Resampling, TimeSteps, Variant
from kinolab.layers.causal_conv import CausalConv3d, Stream, alike
from kinolab.layers.causal_resampling import Interpolation
from kinolab.layers.latent_scaling import ScaledLatents
from kinolab.layers.normalization import NormScope, fast_layout


class OdVaeConfig(KindConfig):
    """OD-VAE; the defaults are a new model of the paper's size with an exact stream."""

    kind: Literal["odvae"] = "odvae"
    variant: Variant = "encoder_outer2d"
    """Which convolutions are 2D (paper, section 3.2): none (1); the second one of each residual block (2); all those
    of the finer half of the resolutions in encoder and decoder (3), or in the encoder only (4, the published one)."""
    hidden_size: int = 128
    """Width of the finest resolution."""
    hidden_size_mult: tuple[int, ...] = (1, 2, 4, 4)
    """Width of each resolution, finest first, as a multiple of hidden_size; each step halves the sides."""
    num_res_blocks: int = 2
    """Residual blocks per resolution in the encoder; the decoder has one more."""
    latent_channels: int = 4
    """Channels of the latents."""
    channels: int = 3
    """Channels of the pixels."""
    temporal_ratio: Literal[1, 2, 4, 8] = 4
    """Frames per latent after the first; at most the spatial ratio."""
    resampling: Resampling = "merged"
    """How time is halved and doubled: by the convolutions that resample space (v1.2); by averaging and interpolation
    of their own after them (v1.1); or by these with a convolution mixed in (v1.1, `TimeDownsampleRes2x`)."""
    time_steps: TimeSteps = "late"
    """Which of the encoder's spatial steps halve time too where there are more of them: the last or the first. The
    decoder always begins with time."""
    upsampling: Interpolation = "nearest"
    """Interpolation in time (and, if merged, in space). "nearest" is causal and keeps the tail equation; the
    published weights need "trilinear"."""
    norm: NormScope = "frame"
    """GroupNorm over each frame (causal: the stream is exact) or over the whole clip (the published weights)."""
    norm_num_groups: int = 32
    """Groups of each GroupNorm; must divide every width."""
    mid_attention: MidAttention = "frame"
    """Attention at the coarsest resolution: over the pixels of each frame; "scrambled", which mixes up the order of
    channels and frames and is not causal, as the published weights trained with it need; or none."""
    use_quant_conv: bool = True
    """A convolution of kernel 1 after the encoder."""
    use_post_quant_conv: bool = True
    """A convolution of kernel 1 before the decoder."""
    latent_shift: float = 0.0
    """Normalised latents = (raw - shift) * scale."""
    latent_scale: float = 1.0
    """See `latent_shift`."""
    gradient_checkpointing: bool = False
    """Recompute the residual blocks in the backward pass: less memory, about a third more time in training."""

    @model_validator(mode="after")
    def _check(self) -> OdVaeConfig:
        if not self.hidden_size_mult:
            raise ValueError("expected at least one resolution in hidden_size_mult, got none")
        odd = [width for width in self.widths if width % self.norm_num_groups]
        if odd:
            raise ValueError(f"expected widths that norm_num_groups={self.norm_num_groups} divides, got {odd}")
        if self.temporal_ratio > self.spatial_ratio:
            raise ValueError(f"expected a temporal_ratio of at most the spatial ratio {self.spatial_ratio}")
        if self.norm == "frame" and self.mid_attention == "scrambled":
            raise ValueError("mid_attention 'scrambled' mixes frames and needs norm 'clip'; use mid_attention 'frame'")
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each resolution, finest first."""
        return tuple(self.hidden_size * m for m in self.hidden_size_mult)

    @property
    def spatial_ratio(self) -> int:
        """2^(resolutions - 1)."""
        return 2 ** (len(self.hidden_size_mult) - 1)

    @property
    def coder(self) -> CausalCoderShape:
        """What the encoder and the decoder have in common."""
        return CausalCoderShape(
            widths=self.widths,
            blocks=self.num_res_blocks,
            groups=self.norm_num_groups,
            variant=self.variant,
            temporal_ratio=self.temporal_ratio,
            resampling=self.resampling,
            time_steps=self.time_steps,
            upsampling=self.upsampling,
            norm=self.norm,
            mid_attention=self.mid_attention,
            checkpointing=self.gradient_checkpointing,
        )


class OdVae(ScaledLatents, CausalAutoencoder):
    """OD-VAE: (B, 3, 1 + r*k, H, W) <-> (B, C', 1 + k, H/s, W/s)."""

    Config = OdVaeConfig

    def __init__(self, config: OdVaeConfig) -> None:
        super().__init__()
        self.config = config
        self.spec = AutoencoderSpec(
            latent_channels=config.latent_channels,
            temporal_ratio=config.temporal_ratio,
            spatial_ratio=config.spatial_ratio,
            causal=config.upsampling == "nearest" and config.norm == "frame",
            channels=config.channels,
        )
        C = config.latent_channels
        self.register_scaling(C, config.latent_shift, config.latent_scale)
        self.encoder = Encoder(config.channels, config.coder, C)
        self.decoder = Decoder(C, config.coder, config.channels)
        self.quant_conv = CausalConv3d(2 * C, 2 * C, (1, 1, 1)) if config.use_quant_conv else None
        self.post_quant_conv = CausalConv3d(C, C, (1, 1, 1)) if config.use_post_quant_conv else None

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Posterior]:
        """As of any causal autoencoder; raises InputError if `norm` is "clip"."""
        self._check_streams("encode_tiled")
        yield from super().encode_stream(chunks)

    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """As of any causal autoencoder; raises InputError if `norm` is "clip".

        With trilinear upsampling, which looks ahead, a chunk waits until the next one has come.
        """
        self._check_streams("decode_tiled")
        if self.config.upsampling == "nearest":
            yield from super().decode_stream(chunks)
            return
        stream, waiting = Stream(), None
        for chunk in alike(chunks):
            self.check_latents(chunk)
            if waiting is not None:
                yield self._decode(waiting, stream)
            waiting = chunk
        if waiting is not None:
            stream.last = True
            yield self._decode(waiting, stream)

    def encode_tiled(self, video: Tensor, frames_per_group: int) -> Posterior:
        """The paper's temporal tiling (section 3.4): encode groups of frames that overlap by one, one by one.

        The first latent of every group but the first is dropped. Bounds memory for any `norm`; the result differs
        from `encode` at the seams.

        Raises:
            InputError: unless frames_per_group = 1 + r*k with k >= 1.
        """
        self.check_video(video)
        step = frames_per_group - 1
        if step < 1 or step % self.spec.temporal_ratio:
            raise InputError(f"expected frames_per_group = 1 + {self.spec.temporal_ratio}*k, got {frames_per_group}")
        groups = [self._encode(group, None) for group in _groups(video, step)]
        mean = torch.cat([g.mean if i == 0 else g.mean[:, :, 1:] for i, g in enumerate(groups)], dim=2)
        logvar = torch.cat([g.logvar if i == 0 else g.logvar[:, :, 1:] for i, g in enumerate(groups)], dim=2)
        return Posterior(mean, logvar)

    def decode_tiled(self, latents: Tensor, latents_per_group: int) -> Tensor:
        """Decode groups of latents that overlap by one, one by one; drop the first frame of every group but the first.

        Raises:
            InputError: unless latents_per_group is at least 2.
        """
        self.check_latents(latents)
        if latents_per_group < 2:
            raise InputError(f"expected latents_per_group of at least 2, got {latents_per_group}")
        groups = [self._decode(group, None) for group in _groups(latents, latents_per_group - 1)]
        return torch.cat([g if i == 0 else g[:, :, 1:] for i, g in enumerate(groups)], dim=2)

    def _encode(self, video: Tensor, stream: Stream | None) -> Posterior:
        moments = self.encoder(fast_layout(video.to(self.encoder.dtype)), stream)
        if self.quant_conv is not None and moments.shape[2]:
            moments = self.quant_conv(moments)
        return Posterior(*self.normalise_moments(moments))

    def _decode(self, latents: Tensor, stream: Stream | None) -> Tensor:
        raw = fast_layout(self.to_raw(latents).to(self.encoder.dtype))
        if self.post_quant_conv is not None:
            raw = self.post_quant_conv(raw)
        return self.decoder(raw, stream)

    def _check_streams(self, instead: str) -> None:
        if self.config.norm == "clip":
            raise InputError(
                "norm 'clip' takes statistics over all frames, so that no part of a clip can be computed before its "
                f"end is known; use {instead}(), or a model with norm 'frame', whose stream is exact"
            )


def _groups(x: Tensor, step: int) -> list[Tensor]:
    """Views of x (B, C, T, H, W) of at most step + 1 frames, each beginning with the last frame of the one before."""
    return [x[:, :, start : start + step + 1] for start in range(0, max(x.shape[2] - 1, 1), step)]
