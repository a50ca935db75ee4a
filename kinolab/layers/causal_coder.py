"""The causal 3D encoder and decoder of videos that OD-VAE and DP-VAE share.

Chen et al., "OD-VAE: An Omni-dimensional Video Compressor for Improving Latent Video Diffusion Model" (2024).
Parameter names are those of the public CausalVAEModel (Open-Sora-Plan 1.1 and 1.2): a 3D causal convolution is
`name.conv.weight`, a 2D one `name.weight`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kinolab.layers import strips
from kinolab.layers.causal_conv import CausalConv3d, FrameConv2d, Stream, convolution
from kinolab.layers.causal_resampling import (
    Downsample,
    Interpolation,
    ResidualTimePool,
    ResidualTimeUpsample,
    SpaceTimeUpsample,
    TimePool,
    TimeUpsample,
    Upsample,
)
from kinolab.layers.normalization import GroupNorm, NormScope, add, fold_frames, silu, unfold_frames
from kinolab.layers.strips import Step, of_video, steps_of

Variant = Literal["all3d", "half2d", "outer2d", "encoder_outer2d"]
MidAttention = Literal["frame", "scrambled", "none"]
Resampling = Literal["merged", "separate", "residual"]
TimeSteps = Literal["late", "early"]


@dataclass(frozen=True)
class CausalCoderShape:
    """What encoder and decoder have in common; `OdVaeConfig` says what each choice means.

    widths: of each resolution, finest first; blocks: residual blocks per resolution in the encoder (the decoder has one
    more); groups: of each GroupNorm; checkpointing: recompute the residual blocks in the backward pass.
    """

    widths: tuple[int, ...]
    blocks: int
    groups: int
    variant: Variant
    temporal_ratio: int
    resampling: Resampling = "merged"
    time_steps: TimeSteps = "late"
    upsampling: Interpolation = "nearest"
    norm: NormScope = "frame"
    mid_attention: MidAttention = "frame"
    checkpointing: bool = False

    def is_outer(self, level: int) -> bool:
        """Whether resolution `level` (0 = finest) is in the finer half."""
        return level < len(self.widths) // 2

    def encoder_halves_time(self, level: int) -> bool:
        """Whether the encoder's step from resolution `level` to the next one halves time."""
        steps, halvings = len(self.widths) - 1, self.temporal_ratio.bit_length() - 1
        return level < halvings if self.time_steps == "early" else steps - halvings <= level < steps

    def decoder_doubles_time(self, level: int) -> bool:
        """Whether the decoder's step from resolution `level` to the next finer one doubles time."""
        steps, doublings = len(self.widths) - 1, self.temporal_ratio.bit_length() - 1
        return level > steps - doublings


class Encoder(nn.Module):
    """Videos (B, 3, T, H, W) -> moments (B, 2C', T', H', W')."""

    def __init__(self, channels: int, shape: CausalCoderShape, latent_channels: int) -> None:
        super().__init__()
        widths, outer2d = shape.widths, shape.variant in ("outer2d", "encoder_outer2d")
        self.conv_in = convolution(channels, widths[0], flat=outer2d)
        self.down = nn.ModuleList()
        for i, width in enumerate(widths):
            level = Level(shape, widths[max(i - 1, 0)], width, shape.blocks, flat=outer2d and shape.is_outer(i))
            time = shape.encoder_halves_time(i)
            if i < len(widths) - 1:
                dimensions = 2 if outer2d and shape.is_outer(i) else 3
                level.downsample = Downsample(width, dimensions=dimensions, time=time and shape.resampling == "merged")
                if time and shape.resampling != "merged":
                    level.time_downsample = ResidualTimePool(width) if shape.resampling == "residual" else TimePool()
            self.down.append(level)
        self.mid = MidBlock(shape, widths[-1])
        self.norm_out = GroupNorm(shape.groups, widths[-1], scope=shape.norm)
        self.conv_out = CausalConv3d(widths[-1], 2 * latent_channels, padding=(1, 1))
        self.latent_channels, self.width = latent_channels, widths[0]

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.norm_out.weight.dtype

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        if strips.wanted(x, self.width):
            x = strips.run(list(self.steps()), x, stream)
            return x if x.shape[2] else x.new_empty(x.shape[0], 2 * self.latent_channels, 0, *x.shape[3:])
        x = self.conv_in(x, stream)
        for level in self.down:
            x = level(x, stream)
            if x.shape[2] == 0:  # the chunk was too short for a latent: the rest has nothing to do yet
                return x.new_empty(x.shape[0], 2 * self.latent_channels, 0, *x.shape[3:])
        x = self.mid(x, stream)
        return self.conv_out(silu(self.norm_out(x)), stream)

    def steps(self) -> Iterator[Step]:
        """The same for large frames, strip by strip."""
        yield Step(self.conv_in, self.width)
        yield from steps_of(*self.down, self.mid)
        yield Step(self.conv_out, self.norm_out.num_channels, norm=self.norm_out)


class Decoder(nn.Module):
    """Raw latents (B, C', T', H', W') -> videos (B, 3, T, H, W)."""

    def __init__(self, latent_channels: int, shape: CausalCoderShape, channels: int) -> None:
        super().__init__()
        widths, outer2d = shape.widths, shape.variant == "outer2d"
        self.conv_in = CausalConv3d(latent_channels, widths[-1], padding=(1, 1))
        self.mid = MidBlock(shape, widths[-1])
        self.up = nn.ModuleList()
        for i, width in enumerate(widths):
            width_in, flat = widths[min(i + 1, len(widths) - 1)], outer2d and shape.is_outer(i)
            level = Level(shape, width_in, width, shape.blocks + 1, flat=flat)
            time = shape.decoder_doubles_time(i)
            if i > 0 and time and shape.resampling == "merged":
                level.upsample = SpaceTimeUpsample(width, shape.upsampling)
            elif i > 0:
                level.upsample = Upsample(width, dimensions=2 if flat else 3)
                if time:
                    residual = shape.resampling == "residual"
                    level.time_upsample = (
                        ResidualTimeUpsample(width, shape.upsampling) if residual else TimeUpsample(shape.upsampling)
                    )
            self.up.append(level)
        self.norm_out = GroupNorm(shape.groups, widths[0], scope=shape.norm)
        self.conv_out = convolution(widths[0], channels, flat=outer2d)
        self.width, self.ratio = widths[0], 2 ** (len(widths) - 1)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        if strips.wanted(x, self.width, self.ratio):
            return strips.run(list(self.steps()), x, stream)
        x = self.mid(self.conv_in(x, stream), stream)
        for level in reversed(self.up):
            x = level(x, stream)
        return self.conv_out(silu(self.norm_out(x)), stream)

    def steps(self) -> Iterator[Step]:
        """The same for large frames, strip by strip."""
        yield Step(self.conv_in, self.norm_out.num_channels * self.ratio)
        yield from steps_of(self.mid, *reversed(self.up))
        yield Step(self.conv_out, self.width, norm=self.norm_out)


class Level(nn.Module):
    """The residual blocks of one resolution, then the layers that lead to the next one, if any."""

    def __init__(self, shape: CausalCoderShape, width_in: int, width: int, blocks: int, *, flat: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResnetBlock(shape, width_in if j == 0 else width, width, flat=flat) for j in range(blocks)
        )
        self.downsample: Downsample | None = None
        self.time_downsample: TimePool | None = None
        self.upsample: Upsample | SpaceTimeUpsample | None = None
        self.time_upsample: TimeUpsample | None = None
        self.checkpointing, self.width = shape.checkpointing, width

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        for block in self.block:
            if self.checkpointing and stream is None and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x, stream)
        for layer in (self.downsample, self.time_downsample, self.upsample, self.time_upsample):
            if layer is not None and x.shape[2]:
                x = layer(x, stream)
        return x

    def steps(self) -> Iterator[Step]:
        """The same for large frames, strip by strip."""
        yield from steps_of(*self.block)
        if self.downsample is not None:
            yield Step(self.downsample, self.width, halo=2, scale=Fraction(1, 2))
        if self.time_downsample is not None:
            yield Step(self.time_downsample, self.width)
        if self.upsample is not None:
            yield Step(self.upsample, self.width, scale=Fraction(2))
        if self.time_upsample is not None:
            yield Step(self.time_upsample, self.width)


class MidBlock(nn.Module):
    """Residual block, attention (if configured), residual block at the coarsest resolution."""

    def __init__(self, shape: CausalCoderShape, width: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(shape, width, width, flat=False)
        self.attn_1 = None if shape.mid_attention == "none" else Attention(shape, width)
        self.block_2 = ResnetBlock(shape, width, width, flat=False)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        x = self.block_1(x, stream)
        if self.attn_1 is not None:
            x = self.attn_1(x)
        return self.block_2(x, stream)

    def steps(self) -> Iterator[Step]:
        """The same for large frames, strip by strip but for the attention."""
        yield from self.block_1.steps()
        if self.attn_1 is not None:
            together = self.attn_1.norm.scope == "clip"
            yield Step(of_video(self.attn_1), self.attn_1.norm.num_channels, whole=True, together=together)
        yield from self.block_2.steps()


class ResnetBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); a `flat` block is 2D and always normalises per frame."""

    def __init__(self, shape: CausalCoderShape, width_in: int, width: int, *, flat: bool) -> None:
        super().__init__()
        groups, scope = shape.groups, "frame" if flat else shape.norm
        self.norm1 = GroupNorm(groups, width_in, scope=scope)
        self.conv1 = convolution(width_in, width, flat=flat)
        self.norm2 = GroupNorm(groups, width, scope=scope)
        self.conv2 = convolution(width, width, flat=flat or shape.variant == "half2d")
        self.nin_shortcut: FrameConv2d | CausalConv3d | None = None
        if width_in != width:
            self.nin_shortcut = FrameConv2d(width_in, width, 1) if flat else CausalConv3d(width_in, width, (1, 1, 1))

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        h = self.conv1(silu(self.norm1(x)), stream)
        h = self.conv2(silu(self.norm2(h)), stream)
        return add(h, x if self.nin_shortcut is None else self.nin_shortcut(x, stream))

    def steps(self) -> Iterator[Step]:
        """The same for large frames, strip by strip."""
        width = max(self.norm1.num_channels, self.norm2.num_channels)
        yield Step(self.conv1, width, norm=self.norm1, keeps=True)
        yield Step(self.conv2, width, norm=self.norm2, skip=self.nin_shortcut or strips.itself)


class Attention(nn.Module):
    """Self-attention with one head over the H*W pixels of each frame, added to its input."""

    def __init__(self, shape: CausalCoderShape, width: int) -> None:
        super().__init__()
        self.scrambled = shape.mid_attention == "scrambled"
        self.norm = GroupNorm(shape.groups, width, scope=shape.norm)
        self.q = CausalConv3d(width, width, (1, 1, 1))
        self.k = CausalConv3d(width, width, (1, 1, 1))
        self.v = CausalConv3d(width, width, (1, 1, 1))
        self.proj_out = CausalConv3d(width, width, (1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        B, C, T, H, W = x.shape
        h = self.norm(x)
        q, k, v = self.q(h), self.k(h), self.v(h)
        if self.scrambled:
            # The published code reads memory ordered (C, T) as if it were (T, C).
            q, k, v = (y.reshape(B * T, 1, C, H * W).transpose(2, 3) for y in (q, k, v))
            h = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(B, C, T, H, W)
        else:
            q, k, v = (fold_frames(y).flatten(2).transpose(1, 2).unsqueeze(1) for y in (q, k, v))
            h = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2)
            h = unfold_frames(h.unflatten(2, (H, W)), B)
        return x + self.proj_out(h)
