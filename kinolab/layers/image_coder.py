"""The encoder and decoder of images that latent diffusion, Stable Diffusion and VQGAN share.

Esser et al., "Taming Transformers for High-Resolution Image Synthesis" (2021); Rombach et al., "High-Resolution Image
Synthesis with Latent Diffusion Models" (2022). Parameter names are those of the diffusers library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinolab.layers import strips
from kinolab.layers.normalization import GroupNorm, add, fast_layout, fold_frames, silu, unfold_frames
from kinolab.layers.strips import Step, of_frames, steps_of
from kinolab.layers.upsampling import double_space


@dataclass(frozen=True)
class CoderShape:
    """What encoder and decoder have in common.

    widths: of each resolution, finest first; blocks: residual blocks per resolution in the encoder (the decoder has one
    more); groups: of each GroupNorm; mid_attention: self-attention at the coarsest resolution; attention_levels:
    resolutions, 0 the finest, with self-attention after every residual block.
    """

    widths: tuple[int, ...]
    blocks: int
    groups: int
    mid_attention: bool
    attention_levels: tuple[int, ...] = ()

    def attends(self, level: int) -> bool:
        """Whether the blocks of a resolution (0 the finest) are followed by attention."""
        return level in self.attention_levels


def per_frame(function: Callable[[Tensor], Tensor], x: Tensor, budget: int) -> Tensor:
    """Apply a function of images (N, C, H, W) to every frame of (B, C, T, H, W).

    Without gradients it sees about `budget` pixels (of `x`, at least one frame) at a time: memory stays bounded.
    """
    images = fold_frames(fast_layout(x))
    count = max(1, budget // (x.shape[-2] * x.shape[-1]))
    if torch.is_grad_enabled() or len(images) <= count:
        return unfold_frames(function(images), x.shape[0])
    return unfold_frames(torch.cat([function(part) for part in images.split(count)]), x.shape[0])


class Encoder(nn.Module):
    """Images (N, channels, H, W) -> (N, channels_out, H/ratio, W/ratio), with ratio = 2^(resolutions - 1)."""

    def __init__(self, channels: int, shape: CoderShape, channels_out: int) -> None:
        super().__init__()
        widths = shape.widths
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownBlock(widths[max(i - 1, 0)], width, shape, i) for i, width in enumerate(widths)
        )
        self.mid_block = MidBlock(widths[-1], shape)
        self.conv_norm_out = GroupNorm(shape.groups, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], channels_out, 3, padding=1)
        self.width = widths[0]

    def forward(self, x: Tensor) -> Tensor:
        if strips.wanted(x, self.width):
            return _in_strips(self.steps(), x)
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(silu(self.conv_norm_out(self.mid_block(x))))

    def steps(self) -> Iterator[Step]:
        """The same for large images, strip by strip."""
        yield Step(of_frames(self.conv_in), self.width)
        yield from steps_of(*self.down_blocks, self.mid_block)
        yield Step(of_frames(self.conv_out), self.conv_out.in_channels, norm=self.conv_norm_out)


class Decoder(nn.Module):
    """Raw latents (N, channels_in, H', W') -> images (N, channels, H'*ratio, W'*ratio)."""

    def __init__(self, channels_in: int, shape: CoderShape, channels: int) -> None:
        super().__init__()
        widths, last = shape.widths[::-1], len(shape.widths) - 1
        self.conv_in = nn.Conv2d(channels_in, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], shape)
        self.up_blocks = nn.ModuleList(
            UpBlock(widths[max(i - 1, 0)], width, shape, last - i) for i, width in enumerate(widths)
        )
        self.conv_norm_out = GroupNorm(shape.groups, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], channels, 3, padding=1)
        self.width, self.ratio = widths[-1], 2**last

    def forward(self, x: Tensor) -> Tensor:
        if strips.wanted(x, self.width, self.ratio):
            return _in_strips(self.steps(), x)
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(silu(self.conv_norm_out(x)))

    def steps(self) -> Iterator[Step]:
        """The same for large images, strip by strip."""
        yield Step(of_frames(self.conv_in), self.conv_in.out_channels)
        yield from steps_of(self.mid_block, *self.up_blocks)
        yield Step(of_frames(self.conv_out), self.width, norm=self.conv_norm_out)


class DownBlock(nn.Module):
    """Residual blocks at one resolution, then (but for the coarsest) a strided convolution to the next."""

    def __init__(self, width_in: int, width: int, shape: CoderShape, level: int) -> None:
        super().__init__()
        n, groups = shape.blocks, shape.groups
        self.resnets = nn.ModuleList(ResnetBlock(width_in if j == 0 else width, width, groups) for j in range(n))
        self.attentions = nn.ModuleList(Attention(width, groups) for _ in range(n * shape.attends(level)))
        self.downsamplers = nn.ModuleList([] if level == len(shape.widths) - 1 else [Downsample(width)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in [*_alternating(self.resnets, self.attentions), *self.downsamplers]:
            x = layer(x)
        return x

    def steps(self) -> Iterator[Step]:
        """The same for large images, strip by strip."""
        yield from steps_of(*_alternating(self.resnets, self.attentions), *self.downsamplers)


class UpBlock(nn.Module):
    """Residual blocks at one resolution, then (but for the finest) upsampling to the next."""

    def __init__(self, width_in: int, width: int, shape: CoderShape, level: int) -> None:
        super().__init__()
        n, groups = shape.blocks + 1, shape.groups
        self.resnets = nn.ModuleList(ResnetBlock(width_in if j == 0 else width, width, groups) for j in range(n))
        self.attentions = nn.ModuleList(Attention(width, groups) for _ in range(n * shape.attends(level)))
        self.upsamplers = nn.ModuleList([] if level == 0 else [Upsample(width)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in [*_alternating(self.resnets, self.attentions), *self.upsamplers]:
            x = layer(x)
        return x

    def steps(self) -> Iterator[Step]:
        """The same for large images, strip by strip."""
        yield from steps_of(*_alternating(self.resnets, self.attentions), *self.upsamplers)


class MidBlock(nn.Module):
    """Residual block, attention (if configured), residual block at the coarsest resolution."""

    def __init__(self, width: int, shape: CoderShape) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(width, width, shape.groups) for _ in range(2))
        self.attentions = nn.ModuleList([Attention(width, shape.groups)] if shape.mid_attention else [])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self._layers():
            x = layer(x)
        return x

    def steps(self) -> Iterator[Step]:
        """The same for large images, strip by strip."""
        yield from steps_of(*self._layers())

    def _layers(self) -> list[nn.Module]:
        return [self.resnets[0], *self.attentions, self.resnets[1]]


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

    def steps(self) -> Iterator[Step]:
        """The same for large images, strip by strip."""
        width = max(self.conv1.in_channels, self.conv1.out_channels)
        skip = strips.itself if self.conv_shortcut is None else of_frames(self.conv_shortcut)
        yield Step(of_frames(self.conv1), width, norm=self.norm1, keeps=True)
        yield Step(of_frames(self.conv2), width, norm=self.norm2, skip=skip)


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

    def steps(self) -> Iterator[Step]:
        """The same for large images: it sees all of one at once."""
        yield Step(of_frames(self), self.group_norm.num_channels, whole=True)


class Downsample(nn.Module):
    """Strided convolution that halves the sides; zeros are padded on the right and at the bottom only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))

    def steps(self) -> Iterator[Step]:
        """The same for large images, strip by strip."""
        yield Step(of_frames(self), self.conv.out_channels, halo=2, scale=Fraction(1, 2))


class Upsample(nn.Module):
    """Every pixel becomes 2 x 2 equal ones, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return double_space(x, self.conv.weight, self.conv.bias)

    def steps(self) -> Iterator[Step]:
        """The same for large images, strip by strip."""
        yield Step(of_frames(self), self.conv.out_channels, scale=Fraction(2))


def _in_strips(steps: Iterator[Step], x: Tensor) -> Tensor:
    """Images (N, C, H, W) as the frames of one video."""
    return strips.run(list(steps), x.transpose(0, 1).unsqueeze(0)).squeeze(0).transpose(0, 1)


def _alternating(blocks: nn.ModuleList, attentions: nn.ModuleList) -> Iterator[nn.Module]:
    """The blocks, each with its attention behind it where there is any."""
    for index, block in enumerate(blocks):
        yield block
        yield from attentions[index : index + 1]
