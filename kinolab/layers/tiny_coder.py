"""The encoder and decoder of TAESD, for images and, inflated, for videos: plain convolutions and ReLU, no norms.

Bohan, "Tiny AutoEncoder for Stable Diffusion" (https://github.com/madebyollin/taesd). Every convolution is either of
each frame by itself (`FrameConv2d`), as all of them are in the published models, or 3D and causal (`CausalConv3d`), as
in a video autoencoder that is inflated from one. Which are which, and where time is halved, follows the variants of
`causal_coder`. Pixels are in [-1, 1] outside, and in [0, 1] between the first and the last convolution.
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
from kinolab.layers.causal_resampling import SpaceTimeUpsample, Upsample
from kinolab.layers.normalization import GroupNorm, add
from kinolab.layers.strips import Step, of_video, steps_of

TinyVariant = Literal["image", "all3d", "half2d", "outer2d", "encoder_outer2d"]
CLAMP = 3.0
"""Latents are squashed to (-CLAMP, CLAMP) by CLAMP * tanh(z / CLAMP) before they are decoded."""
POOL_GROUPS = 4
"""Groups of the norm in the global part, which is as many times as wide as the block."""


@dataclass(frozen=True)
class TinyCoderShape:
    """What makes up encoder and decoder; `TaesdConfig` says what each choice means.

    encoder_blocks: residual blocks per resolution, finest first; decoder_widths, decoder_blocks: coarsest first.
    """

    width: int
    encoder_blocks: tuple[int, ...]
    stem: tuple[int, ...]
    decoder_widths: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    global_part: bool
    variant: TinyVariant
    temporal_ratio: int
    checkpointing: bool = False

    @property
    def halvings(self) -> int:
        """How many times time is halved."""
        return self.temporal_ratio.bit_length() - 1

    def encoder_is_flat(self, level: int) -> bool:
        """Whether the encoder's blocks at a resolution (0 = finest) are 2D."""
        outer = self.variant in ("outer2d", "encoder_outer2d")
        return self.variant == "image" or (outer and level < len(self.encoder_blocks) // 2)

    def decoder_is_flat(self, level: int) -> bool:
        """Whether the decoder's blocks at a resolution (0 = coarsest) are 2D."""
        finer = level >= len(self.decoder_blocks) - len(self.decoder_blocks) // 2
        return self.variant == "image" or (self.variant == "outer2d" and finer)


class Encoder(nn.Module):
    """Videos (B, 3, T, H, W) in [-1, 1] -> raw latents (B, C', T', H', W')."""

    def __init__(self, channels: int, shape: TinyCoderShape, latent_channels: int) -> None:
        super().__init__()
        n, width = len(shape.encoder_blocks), shape.width
        before = (channels, *shape.stem)
        # Without a strided stem, one convolution at full size; its ReLU is missing in the published models too.
        self.stem = nn.ModuleList(
            [FrameConv2d(i, o, 3, stride=2, padding=1) for i, o in zip(before, shape.stem, strict=False)]
            or [convolution(channels, width, flat=shape.encoder_is_flat(0))]
        )
        self.strided = bool(shape.stem)
        self.levels = nn.ModuleList(EncoderLevel(shape, i, time=i > 0 and n - i <= shape.halvings) for i in range(n))
        self.conv_out = convolution(width, latent_channels, flat=shape.variant == "image")
        self.latent_channels, self.width = latent_channels, width

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(self.conv_out.parameters()).dtype

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        if strips.wanted(x, self.width):
            x = strips.run(list(self.steps()), x, stream)
            return x if x.shape[2] else x.new_empty(x.shape[0], self.latent_channels, 0, *x.shape[3:])
        for number in range(len(self.stem)):
            x = self._begin(number, x, stream)
        for level in self.levels:
            x = level(x, stream)
            if x.shape[2] == 0:  # the chunk was too short for a latent: the rest has nothing to do yet
                return x.new_empty(x.shape[0], self.latent_channels, 0, *x.shape[3:])
        latents: Tensor = self.conv_out(x, stream)
        return latents

    def _begin(self, number: int, x: Tensor, stream: Stream | None) -> Tensor:
        """A convolution of the stem, the first with pixels brought to [0, 1]."""
        x = self.stem[number]((x + 1) / 2 if number == 0 else x, stream)
        return relu(x) if self.strided else x

    def steps(self) -> Iterator[Step]:
        """The same for large frames, strip by strip."""
        for number in range(len(self.stem)):
            layer = lambda x, stream, k=number: self._begin(k, x, stream)  # noqa: E731
            yield _halving(layer, self.width) if self.strided else Step(layer, self.width)
        yield from steps_of(*self.levels)
        yield Step(self.conv_out, self.width)


class Decoder(nn.Module):
    """Raw latents (B, C', T', H', W') -> videos (B, 3, T, H, W), about in [-1, 1]."""

    def __init__(self, latent_channels: int, shape: TinyCoderShape, channels: int) -> None:
        super().__init__()
        widths = shape.decoder_widths
        self.conv_in = convolution(latent_channels, widths[0], flat=shape.variant == "image")
        self.levels = nn.ModuleList(DecoderLevel(shape, i, time=i < shape.halvings) for i in range(len(widths)))
        self.conv_out = convolution(widths[-1], channels, flat=shape.decoder_is_flat(len(widths) - 1))
        self.width, self.ratio = widths[-1], 2 ** (len(widths) - 1)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        if strips.wanted(x, self.width, self.ratio):
            return strips.run(list(self.steps()), x, stream)
        x = self._begin(x, stream)
        for level in self.levels:
            x = level(x, stream)
        return self._end(x, stream)

    def _begin(self, x: Tensor, stream: Stream | None) -> Tensor:
        return relu(self.conv_in(CLAMP * torch.tanh(x / CLAMP), stream))

    def _end(self, x: Tensor, stream: Stream | None) -> Tensor:
        return self.conv_out(x, stream) * 2 - 1

    def steps(self) -> Iterator[Step]:
        """The same for large frames, strip by strip."""
        yield Step(self._begin, self.width * self.ratio)
        yield from steps_of(*self.levels)
        yield Step(self._end, self.width)


class EncoderLevel(nn.Module):
    """A strided convolution from the finer resolution (but for the finest), then residual blocks."""

    def __init__(self, shape: TinyCoderShape, level: int, *, time: bool) -> None:
        super().__init__()
        width = shape.width
        self.down: FrameConv2d | CausalConv3d | None = None
        if time:  # output i sees the frames 2i - 2 to 2i
            self.down = CausalConv3d(width, width, stride=(2, 2, 2), padding=(1, 1), bias=False)
        elif level > 0:
            self.down = FrameConv2d(width, width, 3, stride=2, padding=1, bias=False)
        mixes = shape.global_part and level == len(shape.encoder_blocks) - 1
        flat = shape.encoder_is_flat(level)
        self.blocks = nn.ModuleList(
            Block(shape, width, flat=flat, global_part=mixes) for _ in range(shape.encoder_blocks[level])
        )
        self.width = width

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        if self.down is not None:
            x = self.down(x, stream)
        for block in self.blocks:
            if x.shape[2]:
                x = block(x, stream)
        return x

    def steps(self) -> Iterator[Step]:
        """The same for large frames, strip by strip."""
        if self.down is not None:
            yield _halving(self.down, self.width)
        yield from steps_of(*self.blocks)


class DecoderLevel(nn.Module):
    """Residual blocks, then (but for the finest resolution) doubling and a convolution without bias."""

    def __init__(self, shape: TinyCoderShape, level: int, *, time: bool) -> None:
        super().__init__()
        width, last = shape.decoder_widths[level], len(shape.decoder_blocks) - 1
        flat, mixes = shape.decoder_is_flat(level), shape.global_part and level == 0
        self.blocks = nn.ModuleList(
            Block(shape, width, flat=flat, global_part=mixes) for _ in range(shape.decoder_blocks[level])
        )
        self.up: Upsample | SpaceTimeUpsample | None = None
        if level < last:
            finer = shape.decoder_widths[level + 1]
            if time:
                self.up = SpaceTimeUpsample(width, "nearest", width_out=finer, bias=False)
            else:
                self.up = Upsample(width, dimensions=2, width_out=finer, bias=False)
        self.width = width

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, stream)
        return x if self.up is None else self.up(x, stream)

    def steps(self) -> Iterator[Step]:
        """The same for large frames, strip by strip."""
        yield from steps_of(*self.blocks)
        if self.up is not None:
            yield Step(self.up, self.width, scale=Fraction(2))


class Block(nn.Module):
    """relu(x + conv(relu(conv(relu(conv(x)))))); with a global part, x + pool(x) takes the place of x.

    The global part is a convolution of kernel 1 to four times the width, a norm over each whole frame, ReLU, and a
    convolution back. It is what tells every place about the frame's contrast, as FLUX.2's autoencoder needs.
    """

    def __init__(self, shape: TinyCoderShape, width: int, *, flat: bool, global_part: bool) -> None:
        super().__init__()
        self.conv1 = convolution(width, width, flat=flat)
        self.conv2 = convolution(width, width, flat=flat or shape.variant == "half2d")
        self.conv3 = convolution(width, width, flat=flat or shape.variant == "half2d")
        self.pool = GlobalPart(width) if global_part else None
        self.checkpointing, self.width = shape.checkpointing, width

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        if self.checkpointing and stream is None and torch.is_grad_enabled():
            return checkpoint(self._forward, x, None, use_reentrant=False)
        return self._forward(x, stream)

    def _forward(self, x: Tensor, stream: Stream | None) -> Tensor:
        return self._convolved(x if self.pool is None else self.pool(x), stream)

    def _convolved(self, x: Tensor, stream: Stream | None) -> Tensor:
        h = relu(self.conv1(x, stream))
        h = relu(self.conv2(h, stream))
        return relu(add(self.conv3(h, stream), x))

    def steps(self) -> Iterator[Step]:
        """The same for large frames: the global part sees all of a frame, the convolutions three rows around."""
        if self.pool is not None:
            yield Step(of_video(self.pool), POOL_GROUPS * self.width, whole=True)
        yield Step(self._convolved, self.width, halo=3)


class GlobalPart(nn.Module):
    """x + the part of a block that sees whole frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = POOL_GROUPS * width
        self.conv_in = FrameConv2d(width, wide, 1, bias=False)
        self.norm = GroupNorm(POOL_GROUPS, wide, eps=1e-5)
        self.conv_out = FrameConv2d(wide, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return add(self.conv_out(relu(self.norm(self.conv_in(x)))), x)


def relu(x: Tensor) -> Tensor:
    """max(x, 0); in place where no gradient is recorded, so that `x` must be owned by the caller."""
    return F.relu(x, inplace=not (torch.is_grad_enabled() and x.requires_grad))


def _halving(layer: strips.Layer, width: int) -> Step:
    """The step of a convolution of stride 2; strips begin at even rows, hence two rows around."""
    return Step(layer, width, halo=2, scale=Fraction(1, 2))
