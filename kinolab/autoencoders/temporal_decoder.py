"""The autoencoder of Stable Video Diffusion: an image encoder, and a decoder that sees its neighbours in time.

Blattmann et al., "Align your Latents" (2023), section 3.1.1: a decoder of images flickers over a video's latents, so it
gets layers over time and is trained on, by reconstruction and a discriminator of space-time patches, with the encoder
as it was. Every latent that the image autoencoder made can be decoded by it. The layers are those of Stable Video
Diffusion (Blattmann et al. 2023, arXiv:2311.15127): behind every residual block one with kernels 3 x 1 x 1, mixed with
it by a learned share, and a convolution over time at the very end. Parameter names are those of the diffusers library.

Shapes: B batch, C channels, T frames. Inside the decoder frames are (B * T, C, H, W).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kinolab.autoencoders.image import ImageAutoencoder, ImageConfig
from kinolab.layers.image_coder import Attention, CoderShape, ResnetBlock, Upsample
from kinolab.layers.normalization import GroupNorm, fast_layout, fold_frames, silu, unfold_frames
from kinolab.layers.temporal_mixing import Mixer, TimeConvolution


class TemporalDecoderConfig(ImageConfig):
    """An image autoencoder whose decoder has layers over time; the defaults are Stable Video Diffusion's."""

    kind: Literal["temporal_decoder"] = "temporal_decoder"  # type: ignore[assignment]
    latent_scale: float = 0.18215
    """See `latent_shift`; that of Stable Diffusion, whose latents the decoder reads."""
    use_post_quant_conv: bool = False
    """A 1x1 convolution before the decoder: none in Stable Video Diffusion, one in Stable Diffusion."""
    middle_blocks: int = Field(2, ge=1)
    """Residual blocks at the coarsest resolution of the decoder, with attention between the first two."""
    chunk_frames: int = Field(14, ge=1)
    """Frames that are decoded together without gradients. Each such chunk is decoded by itself, so memory does not grow
    with the video; frames at the seams don't see each other."""


class TemporalDecoderAutoencoder(ImageAutoencoder):
    """An image encoder on every frame and a decoder over time; temporal ratio 1."""

    Config = TemporalDecoderConfig
    config: TemporalDecoderConfig

    def __init__(self, config: TemporalDecoderConfig) -> None:
        super().__init__(config)
        self.spec = replace(self.spec, causal=False)

    def make_decoder(self, shape: CoderShape) -> nn.Module:
        """Raw latents of clips' frames (B * T, C', H', W'), B -> video."""
        return TemporalDecoder(self.config.latent_channels, shape, self.config.channels, self.config.middle_blocks)

    @property
    def keeps_scaling(self) -> bool:
        """An image model's denoiser, or its layers over time, read these latents."""
        return True

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C', T, H', W') -> (B, 3, T, H'*ratio, W'*ratio); without gradients in chunks of `config.chunk_frames`."""
        self.check_latents(latents)
        if torch.is_grad_enabled() or latents.shape[2] <= self.config.chunk_frames:
            return self._decode(latents)
        # One clip and one chunk at a time: what the decoder holds is the same for any batch and any length.
        rows = ([self._decode(c) for c in z.split(self.config.chunk_frames, 2)] for z in latents.split(1))
        return torch.cat([torch.cat(row, 2) for row in rows])

    def _decode(self, latents: Tensor) -> Tensor:
        raw = self.to_raw(latents).to(self.encoder.conv_in.weight.dtype)
        frames = self.post_quant_conv(fold_frames(fast_layout(raw)))
        return self.decoder(frames, latents.shape[0])

    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Video chunks of latents in chunks (B, C', t', H', W') of any lengths: what `decode` makes of all at once.

        Latents wait until `config.chunk_frames` of them are there, and are then decoded together.
        """
        waiting: Tensor | None = None
        for chunk in chunks:
            self.check_latents(chunk)
            waiting = chunk if waiting is None else torch.cat([waiting, chunk], 2)
            while waiting.shape[2] >= self.config.chunk_frames:
                yield self.decode(waiting[:, :, : self.config.chunk_frames])
                waiting = waiting[:, :, self.config.chunk_frames :]
        if waiting is not None and waiting.shape[2]:
            yield self.decode(waiting)


class TemporalDecoder(nn.Module):
    """Raw latents of B clips (B * T, channels_in, H', W') -> video (B, channels, T, H'*ratio, W'*ratio)."""

    def __init__(self, channels_in: int, shape: CoderShape, channels: int, middle: int) -> None:
        super().__init__()
        widths, last = shape.widths[::-1], len(shape.widths) - 1
        self.conv_in = nn.Conv2d(channels_in, widths[0], 3, padding=1)
        self.mid_block = MiddleBlock(widths[0], shape, middle)
        self.up_blocks = nn.ModuleList(
            UpBlock(widths[max(i - 1, 0)], width, shape, last=i == last) for i, width in enumerate(widths)
        )
        self.conv_norm_out = GroupNorm(shape.groups, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], channels, 3, padding=1)
        self.time_conv_out = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Let every layer over time begin as nothing, so that the decoder of images is what training starts from."""
        for module in self.modules():
            if isinstance(module, TimeConvolution):
                module.reset()
        weight = self.time_conv_out.weight
        weight.zero_()
        weight[:, :, 1, 0, 0] = torch.eye(len(weight))
        if self.time_conv_out.bias is not None:
            self.time_conv_out.bias.zero_()

    def forward(self, x: Tensor, batch: int) -> Tensor:
        x = self.mid_block(self.conv_in(x), batch)
        for block in self.up_blocks:
            x = block(x, batch)
        return self.time_conv_out(unfold_frames(self.conv_out(silu(self.conv_norm_out(x))), batch))


class MiddleBlock(nn.Module):
    """Residual block, attention over a frame's places, residual block.

    With one residual block the attention is there and unused, and a third one is too: so it is in the public class,
    whose small models hold them.
    """

    def __init__(self, width: int, shape: CoderShape, blocks: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(TimedResnet(width, width, shape.groups) for _ in range(blocks))
        self.attentions = nn.ModuleList([Attention(width, shape.groups)] if shape.mid_attention else [])

    def forward(self, x: Tensor, batch: int) -> Tensor:
        x = self.resnets[0](x, batch)
        for resnet in self.resnets[1:2]:
            for attention in self.attentions:
                x = attention(x)
            x = resnet(x, batch)
        return x


class UpBlock(nn.Module):
    """Residual blocks at one resolution, then (but for the finest) upsampling to the next."""

    def __init__(self, width_in: int, width: int, shape: CoderShape, *, last: bool) -> None:
        super().__init__()
        n, groups = shape.blocks + 1, shape.groups
        self.resnets = nn.ModuleList(TimedResnet(width_in if j == 0 else width, width, groups) for j in range(n))
        self.upsamplers = nn.ModuleList([] if last else [Upsample(width)])

    def forward(self, x: Tensor, batch: int) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x, batch)
        for upsample in self.upsamplers:
            x = upsample(x)
        return x


class TimedResnet(nn.Module):
    """A residual block of images, one of frames behind it, and the share of the latter: (B * T, C, H, W) -> the same.

    Unlike in the U-Net the share alpha is that of the branch over time: alpha * time + (1 - alpha) * space.
    """

    def __init__(self, width_in: int, width: int, groups: int) -> None:
        super().__init__()
        self.spatial_res_block = ResnetBlock(width_in, width, groups)
        self.temporal_res_block = TimeConvolution(width, groups, eps=1e-5)
        self.time_mixer = Mixer(0.0)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        space = unfold_frames(self.spatial_res_block(x), batch)
        return fold_frames(self.time_mixer(self.temporal_res_block(space), space))
