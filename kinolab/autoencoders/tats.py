"""The 3D VQGAN of TATS: a clip is a grid of codes in time and space.

Ge et al., "Long Video Generation with Time-Agnostic VQGAN and Time-Sensitive Transformer" (2022). Convolutions repeat
the border in time and space instead of padding zeros, and look both ways: r*k frames give k latents, and there is no
exact stream. As an autoencoder with continuous latents: the posterior's mean is the quantised embedding (and its
deviation next to nothing), `indices` gives the codes. `decode` takes any latents as they are and does not quantise them
again. Parameter names are those of the public code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Literal

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from kinolab.autoencoders.base import Autoencoder, AutoencoderSpec, Posterior
from kinolab.contracts.table import KindConfig
from kinolab.errors import InputError
from kinolab.layers import strips
from kinolab.layers.codebook import Codebook
from kinolab.layers.latent_scaling import ScaledLatents
from kinolab.layers.normalization import GroupNorm, silu
from kinolab.layers.strips import Layer, Step, of_video, steps_of

PIXEL_RANGE = 0.5
"""The public code takes and gives pixels in [-0.5, 0.5]."""

Triple = tuple[int, int, int]


class TatsConfig(KindConfig):
    """The 3D VQGAN of TATS; the defaults are those of its published models."""

    kind: Literal["tats"] = "tats"
    n_hiddens: int = Field(32, ge=1)
    """Width of the first convolution; every level doubles it."""
    downsample: tuple[int, int, int] = (4, 8, 8)
    """By how much time, height and width are divided: powers of 2, height and width alike."""
    embedding_dim: int = Field(256, ge=1)
    """Width of a code's vector: the channels of the latents."""
    n_codes: int = Field(16384, ge=2)
    """Codes in the codebook."""
    norm_type: Literal["batch", "group"] = "batch"
    """batch: normalisation by the statistics that the weights bring; group: GroupNorm over the whole clip."""
    norm_num_groups: int = Field(32, ge=1)
    """Groups of each GroupNorm; must divide 2 * n_hiddens (norm_type group)."""
    channels: int = Field(3, ge=1)
    """Channels of the pixels."""
    latent_shift: float = 0.0
    """Normalised latents = (vector - shift) * scale."""
    latent_scale: float = 1.0
    """See `latent_shift`."""

    @property
    def levels(self) -> int:
        """How many times the width doubles."""
        return max(self.downsample).bit_length() - 1

    @model_validator(mode="after")
    def _check(self) -> TatsConfig:
        _, height, width = self.downsample
        if min(self.downsample) < 1 or any(d & (d - 1) for d in self.downsample) or height != width or self.levels < 1:
            raise ValueError(
                f"expected downsample of powers of 2, height and width alike, as (4, 8, 8), got {self.downsample}"
            )
        if self.norm_type == "group" and 2 * self.n_hiddens % self.norm_num_groups:
            raise ValueError(f"expected norm_num_groups that divides {2 * self.n_hiddens}, got {self.norm_num_groups}")
        return self

    def strides(self, level: int) -> Triple:
        """Stride in time, height and width of level 0, 1, ...: 2 until a dimension is divided as often as asked."""
        time, height, width = (2 if d >> level > 1 else 1 for d in self.downsample)
        return time, height, width


class Tats(ScaledLatents, Autoencoder):
    """TATS's autoencoder: clips of r*k frames, with r = downsample[0], as codes that see frames on both sides."""

    Config = TatsConfig

    untrainable = "a discrete autoencoder is read from its public weights and measured, not trained"

    def __init__(self, config: TatsConfig) -> None:
        super().__init__()
        self.config = config
        self.spec = AutoencoderSpec(
            latent_channels=config.embedding_dim,
            temporal_ratio=config.downsample[0],
            spatial_ratio=config.downsample[1],
            causal=False,
            channels=config.channels,
            first_frame=False,
        )
        self.register_scaling(config.embedding_dim, config.latent_shift, config.latent_scale)
        width = config.n_hiddens << config.levels
        self.encoder = Encoder(config)
        self.pre_vq_conv = SamePadConv3d(width, config.embedding_dim, 1)
        self.codebook = Codebook(config.n_codes, config.embedding_dim)
        self.post_vq_conv = SamePadConv3d(config.embedding_dim, width, 1)
        self.decoder = Decoder(config)

    @property
    def bits_per_latent(self) -> float:
        """log2 of the number of codes."""
        return self.codebook.bits

    def encoder_parts(self) -> nn.ModuleList:
        """The modules that only encoding uses."""
        return nn.ModuleList([self.encoder, self.pre_vq_conv])

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last convolution."""
        return self.decoder.conv_last.conv.weight

    def indices(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1] -> codes (B, T/r, H/ratio, W/ratio), int64."""
        self.check_video(video)
        x = PIXEL_RANGE * video.to(self.last_layer.dtype)
        return self.codebook.nearest(self.pre_vq_conv(self.encoder(x)))

    def decode_indices(self, indices: Tensor) -> Tensor:
        """Codes (B, T', H', W') -> (B, 3, T'*r, H'*ratio, W'*ratio); raises InputError for a code that there is not."""
        return self._decode(self.codebook.look_up(indices))

    def encode(self, video: Tensor) -> Posterior:
        """(B, 3, T, H, W) in [-1, 1] -> a posterior whose mean is the codes' vectors, (B, C', T', H', W')."""
        return Posterior.certain(self.to_normalised(self.codebook.look_up(self.indices(video))))

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C', T', H', W') -> (B, 3, T'*r, H'*ratio, W'*ratio)."""
        self.check_latents(latents)
        return self._decode(self.to_raw(latents))

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Posterior]:
        """Raises InputError: no part of a clip is known before the frames after it are."""
        raise InputError(self._no_stream("encode"))

    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Raises InputError: no part of a clip is known before the latents after it are."""
        raise InputError(self._no_stream("decode"))

    def _decode(self, vectors: Tensor) -> Tensor:
        return self.decoder(self.post_vq_conv(vectors.to(self.last_layer.dtype))) / PIXEL_RANGE

    @staticmethod
    def _no_stream(instead: str) -> str:
        return f"tats looks ahead in time, so that it has no exact stream; use {instead}() on whole clips"


class Encoder(nn.Module):
    """Videos (B, 3, T, H, W) -> (B, n_hiddens * 2^levels, T', H', W')."""

    def __init__(self, config: TatsConfig) -> None:
        super().__init__()
        widths = [config.n_hiddens << i for i in range(config.levels + 1)]
        self.conv_first = SamePadConv3d(config.channels, widths[0], 3)
        self.conv_blocks = nn.ModuleList(
            DownBlock(widths[i], widths[i + 1], config.strides(i), config) for i in range(config.levels)
        )
        self.final_block = nn.Sequential(_norm(widths[-1], config), nn.SiLU())
        self.width = widths[0]

    def forward(self, x: Tensor) -> Tensor:
        if strips.wanted(x, self.width):
            return strips.run(list(self.steps()), x)
        x = self.conv_first(x)
        for block in self.conv_blocks:
            x = block(x)
        return self.final_block(x)

    def steps(self) -> Iterator[Step]:
        """The same for large frames, strip by strip."""
        yield Step(of_video(self.conv_first), self.width)
        yield from steps_of(*self.conv_blocks)
        yield _normed(self.final_block[0], strips.itself, self.width << len(self.conv_blocks), halo=0)


class Decoder(nn.Module):
    """(B, n_hiddens * 2^levels, T', H', W') -> videos (B, 3, T, H, W); strides come in the encoder's order."""

    def __init__(self, config: TatsConfig) -> None:
        super().__init__()
        top = config.n_hiddens << config.levels
        # The first level keeps the width, so that the last one ends in twice n_hiddens.
        widths = [top, *(top >> i for i in range(config.levels))]
        self.final_block = nn.Sequential(_norm(top, config), nn.SiLU())
        self.conv_blocks = nn.ModuleList(
            UpBlock(widths[i], widths[i + 1], config.strides(i), config) for i in range(config.levels)
        )
        self.conv_last = SamePadConv3d(widths[-1], config.channels, 3)
        self.widths, self.ratio = (top, widths[-1]), config.downsample[1]

    def forward(self, x: Tensor) -> Tensor:
        if strips.wanted(x, self.widths[-1], self.ratio):
            return strips.run(list(self.steps()), x)
        x = self.final_block(x)
        for block in self.conv_blocks:
            x = block(x)
        return self.conv_last(x)

    def steps(self) -> Iterator[Step]:
        """The same for large frames, strip by strip."""
        yield _normed(self.final_block[0], strips.itself, self.widths[0], halo=0)
        yield from steps_of(*self.conv_blocks)
        yield Step(of_video(self.conv_last), self.widths[-1])


class DownBlock(nn.Module):
    """A strided convolution and a residual block."""

    def __init__(self, width_in: int, width: int, stride: Triple, config: TatsConfig) -> None:
        super().__init__()
        self.down = SamePadConv3d(width_in, width, 4, stride)
        self.res = ResBlock(width, config)

    def forward(self, x: Tensor) -> Tensor:
        return self.res(self.down(x))

    def steps(self) -> Iterator[Step]:
        """The same for large frames, strip by strip."""
        conv = self.down.conv
        yield Step(of_video(self.down), conv.out_channels, halo=2, scale=Fraction(1, conv.stride[1]))
        yield from self.res.steps()


class UpBlock(nn.Module):
    """A transposed convolution and two residual blocks."""

    def __init__(self, width_in: int, width: int, stride: Triple, config: TatsConfig) -> None:
        super().__init__()
        self.up = SamePadConvTranspose3d(width_in, width, 4, stride)
        self.res1 = ResBlock(width, config)
        self.res2 = ResBlock(width, config)

    def forward(self, x: Tensor) -> Tensor:
        return self.res2(self.res1(self.up(x)))

    def steps(self) -> Iterator[Step]:
        """The same for large frames, strip by strip."""
        conv = self.up.convt
        yield Step(of_video(self.up), conv.in_channels, halo=2, scale=Fraction(conv.stride[1]))
        yield from self.res1.steps()
        yield from self.res2.steps()


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))))))."""

    def __init__(self, width: int, config: TatsConfig) -> None:
        super().__init__()
        self.norm1 = _norm(width, config)
        self.conv1 = SamePadConv3d(width, width, 3)
        self.norm2 = _norm(width, config)
        self.conv2 = SamePadConv3d(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(silu(self.norm2(self.conv1(silu(self.norm1(x))))))

    def steps(self) -> Iterator[Step]:
        """The same for large frames, strip by strip."""
        width = self.conv1.conv.in_channels
        yield _normed(self.norm1, of_video(self.conv1), width, keeps=True)
        yield _normed(self.norm2, of_video(self.conv2), width, skip=strips.itself)


class SamePadConv3d(nn.Module):
    """A convolution that gives size / stride, with the border repeated: kernel - stride more, the odd one in front."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: Triple = (1, 1, 1)) -> None:
        super().__init__()
        self.padding = _padding(kernel, stride)
        self.conv = nn.Conv3d(channels_in, channels_out, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.padding, mode="replicate"))


class SamePadConvTranspose3d(nn.Module):
    """A transposed convolution that gives size * stride, with the border repeated."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: Triple) -> None:
        super().__init__()
        self.padding = _padding(kernel, stride)
        # Of n + k - s inputs (n + k - s - 1) s + k - 2 (k - 1) outputs are made: n s for kernel 4 and strides 1 and 2.
        self.convt = nn.ConvTranspose3d(channels_in, channels_out, kernel, stride, padding=kernel - 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.convt(F.pad(x, self.padding, mode="replicate"))


class BatchNorm(nn.BatchNorm3d):
    """Batch normalisation by the stored statistics, in training mode too: nothing here changes them."""

    def forward(self, input: Tensor) -> Tensor:
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


def _normed(
    norm: nn.Module, layer: Layer, width: int, *, halo: int = 1, keeps: bool = False, skip: Layer | None = None
) -> Step:
    """layer(silu(norm(x))) as a step: stored statistics are a matter of each pixel, a group's are of the whole clip."""
    if isinstance(norm, GroupNorm):
        return Step(layer, width, halo, norm=norm, keeps=keeps, skip=skip)
    return Step(lambda x, stream: layer(silu(norm(x)), stream), width, halo, keeps=keeps, skip=skip)


def _norm(width: int, config: TatsConfig) -> nn.Module:
    return BatchNorm(width) if config.norm_type == "batch" else GroupNorm(config.norm_num_groups, width, scope="clip")


def _padding(kernel: int, stride: Triple) -> tuple[int, ...]:
    """Of width, height and time, before and after, as F.pad wants them."""
    totals = [kernel - s for s in reversed(stride)]
    return tuple(side for total in totals for side in (total - total // 2, total // 2))
