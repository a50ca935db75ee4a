"""The image autoencoder of Stable Diffusion (AutoencoderKL), applied to a video frame by frame.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (2022). Parameter names are those of
the diffusers library, so that public weights load as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from kinolab.autoencoders.base import Autoencoder, AutoencoderSpec, Posterior
from kinolab.config import Config
from kinolab.layers.latent_scaling import ScaledLatents
from kinolab.layers.normalization import GroupNorm, add, fast_layout, fold_frames, silu, unfold_frames
from kinolab.layers.upsampling import double_space

PIXELS_AT_ONCE = 2**20
"""Without gradients, frames go through the network in chunks of about this many pixels: memory stays bounded."""


class ImageConfig(Config):
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


class ImageAutoencoder(ScaledLatents, Autoencoder):
    """AutoencoderKL on every frame of a video; temporal ratio 1, spatial ratio 2^(resolutions - 1)."""

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        self.config = config
        self.spec = AutoencoderSpec(
            latent_channels=config.latent_channels,
            temporal_ratio=1,
            spatial_ratio=2 ** (len(config.block_out_channels) - 1),
            causal=True,
            channels=config.channels,
        )
        self.register_scaling(config.latent_channels, config.latent_shift, config.latent_scale)
        C = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * C, 2 * C, 1) if config.use_quant_conv else nn.Identity()
        self.post_quant_conv = nn.Conv2d(C, C, 1) if config.use_post_quant_conv else nn.Identity()

    def encode(self, video: Tensor) -> Posterior:
        """(B, 3, T, H, W) in [-1, 1] -> posterior over (B, C', T, H/ratio, W/ratio), every frame by itself."""
        self.check_video(video)
        moments = self._per_frame(lambda x: self.quant_conv(self.encoder(x)), video, PIXELS_AT_ONCE)
        return Posterior(*self.normalise_moments(moments))

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C', T, H', W') -> (B, 3, T, H'*ratio, W'*ratio), every frame by itself."""
        self.check_latents(latents)
        budget = PIXELS_AT_ONCE // self.spec.spatial_ratio**2
        return self._per_frame(lambda z: self.decoder(self.post_quant_conv(z)), self.to_raw(latents), budget)

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Posterior]:
        """One posterior per chunk (B, 3, t, H, W); frames are independent, so that any chunking is exact."""
        for chunk in chunks:
            yield self.encode(chunk)

    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """One video chunk per chunk of latents (B, C', t, H', W'); any chunking is exact."""
        for chunk in chunks:
            yield self.decode(chunk)

    def _per_frame(self, function: Callable[[Tensor], Tensor], x: Tensor, budget: int) -> Tensor:
        """Apply a function of images (N, C, H, W) to every frame of (B, C, T, H, W), `budget` pixels at a time."""
        images = fold_frames(fast_layout(x.to(self.encoder.conv_in.weight.dtype)))
        count = max(1, budget // (x.shape[-2] * x.shape[-1]))
        if torch.is_grad_enabled() or len(images) <= count:
            return unfold_frames(function(images), x.shape[0])
        return unfold_frames(torch.cat([function(part) for part in images.split(count)]), x.shape[0])


class Encoder(nn.Module):
    """Images (N, 3, H, W) -> moments (N, 2C', H/ratio, W/ratio)."""

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(config.channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownBlock(widths[max(i - 1, 0)], width, config, last=i == len(widths) - 1) for i, width in enumerate(widths)
        )
        self.mid_block = MidBlock(widths[-1], config)
        self.conv_norm_out = GroupNorm(groups, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Raw latents (N, C', H', W') -> images (N, 3, H'*ratio, W'*ratio)."""

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], config)
        self.up_blocks = nn.ModuleList(
            UpBlock(widths[max(i - 1, 0)], width, config, last=i == len(widths) - 1) for i, width in enumerate(widths)
        )
        self.conv_norm_out = GroupNorm(groups, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(silu(self.conv_norm_out(x)))


class DownBlock(nn.Module):
    """Residual blocks at one resolution, then (but for the last) a strided convolution to the next."""

    def __init__(self, width_in: int, width: int, config: ImageConfig, *, last: bool) -> None:
        super().__init__()
        n, groups = config.layers_per_block, config.norm_num_groups
        self.resnets = nn.ModuleList(ResnetBlock(width_in if j == 0 else width, width, groups) for j in range(n))
        self.downsamplers = nn.ModuleList([] if last else [Downsample(width)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in [*self.resnets, *self.downsamplers]:
            x = layer(x)
        return x


class UpBlock(nn.Module):
    """Residual blocks at one resolution, then (but for the last) upsampling to the next."""

    def __init__(self, width_in: int, width: int, config: ImageConfig, *, last: bool) -> None:
        super().__init__()
        n, groups = config.layers_per_block + 1, config.norm_num_groups
        self.resnets = nn.ModuleList(ResnetBlock(width_in if j == 0 else width, width, groups) for j in range(n))
        self.upsamplers = nn.ModuleList([] if last else [Upsample(width)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in [*self.resnets, *self.upsamplers]:
            x = layer(x)
        return x


class MidBlock(nn.Module):
    """Residual block, attention (if configured), residual block at the coarsest resolution."""

    def __init__(self, width: int, config: ImageConfig) -> None:
        super().__init__()
        groups = config.norm_num_groups
        self.resnets = nn.ModuleList(ResnetBlock(width, width, groups) for _ in range(2))
        self.attentions = nn.ModuleList([Attention(width, groups)] if config.mid_block_attention else [])

    def forward(self, x: Tensor) -> Tensor:
        for layer in [self.resnets[0], *self.attentions, self.resnets[1]]:
            x = layer(x)
        return x


class ResnetBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 convolution on x where the width changes."""

    def __init__(self, width_in: int, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.norm2 = GroupNorm(groups, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(width_in, width, 1) if width_in != width else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(silu(self.norm2(h)))
        return add(h, x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    """Self-attention with one head over the H*W pixels of each image, added to its input."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.group_norm = GroupNorm(groups, width)
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        h_NLD = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (f(h_NLD).unsqueeze(1) for f in (self.to_q, self.to_k, self.to_v))
        h_NLD = self.to_out[0](F.scaled_dot_product_attention(q, k, v).squeeze(1))
        return x + h_NLD.transpose(1, 2).unflatten(2, x.shape[2:])


class Downsample(nn.Module):
    """Strided convolution that halves the sides; zeros are padded on the right and at the bottom only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Every pixel becomes 2 x 2 equal ones, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return double_space(x, self.conv.weight, self.conv.bias)
