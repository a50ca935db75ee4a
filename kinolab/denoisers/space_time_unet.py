"""The U-Net of pseudo-3D layers in the most used code of Make-A-Video (lucidrains/make-a-video-pytorch).

Its layers are the paper's (Singer et al. 2022, arXiv:2209.14792, section 3.2; `kinolab.layers.pseudo3d`); their order
and what else there is are that code's: attention on chosen levels alone, with biases by distance in space and in time;
a gated MLP whose hidden channels are shifted by a frame in one half; steps between levels by moving places into
channels, which may halve the number of frames too; skips times 2^(-1/2).

That class is a network of clips and times and of nothing else. What a denoiser of ours may be told joins the time's
embedding: a class, a prompt pooled by attention, and any vectors, such as the embedding of a picture. One frame alone
is an image: nothing of the layers over time is used then.

Shapes: B batch, C channels of the latents, D channels of a level, T frames, S = H x W places, K width of the time.
Videos are (B, D, T, H, W), tokens (B, T, S, D).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from kinolab.contracts.options import ForwardOptions
from kinolab.denoisers.base import BaseDenoiserConfig, Conditions, Denoiser, DenoiserSpec, run_blocks
from kinolab.errors import InputError
from kinolab.layers.embeddings import LabelEmbedder, TextPooling, sine_features
from kinolab.layers.normalization import fast_layout, fold_frames, unfold_frames
from kinolab.layers.ports import ConditionPorts, check_port_names, named_ports
from kinolab.layers.pseudo3d import PseudoConv3d, ResidualAttention, RmsNorm

SKIP_SCALE = 2**-0.5


class SpaceTimeUnetConfig(BaseDenoiserConfig):
    """The network's fields; the defaults are those of the public code."""

    kind: Literal["space_time_unet"] = "space_time_unet"
    dim: int = Field(64, ge=4)
    """Channels of the first convolution, an even number."""
    dim_mults: tuple[int, ...] = Field((1, 2, 4, 8), min_length=1)
    """Channels of each level in units of dim; every level, the last too, ends at half the sides."""
    attention: tuple[bool, ...] = (False, False, False, True)
    """Which levels attend, in space and in time; the middle always does."""
    halves_time: tuple[bool, ...] = (False, True, True, True)
    """Which levels end at half the frames too."""
    depths: tuple[int, ...] = (2, 2, 2, 2)
    """Residual blocks of each level that are not told the time, behind the one that is."""
    num_heads: int = Field(8, ge=1)
    """Attention heads."""
    head_dim: int = Field(64, ge=1)
    """Size of a head."""
    position_bias: bool = True
    """Let attention know distances; without, it knows no order."""
    in_channels: int = Field(4, ge=1)
    """Channels of the latents; 3 for pixels."""
    input_size: int | tuple[int, int] = 64
    """Height and width of the latents in training (one number: both); others need no change of the network."""
    num_frames: int = Field(16, ge=1)
    """Latent frames in training; others need no change of the network."""
    num_classes: int = Field(0, ge=0)
    """Class labels 0 .. num_classes - 1; num_classes itself is the null class; 0 = no labels."""
    text_dim: int = Field(0, ge=0)
    """Width of a prompt's token states, which attention pooling makes one vector; 0 = none."""
    vectors: dict[str, int] = Field(default_factory=dict)
    """More conditions that join the time's embedding, by name (`kinolab.conditioning`), and their widths; 0 = one
    number, such as noise_level: 0."""
    fields: dict[str, int] = Field(default_factory=dict)
    """More conditions that lie beside the latents, by name, and their channels, such as control: 4."""

    @model_validator(mode="after")
    def _check(self) -> SpaceTimeUnetConfig:
        check_port_names(self.vectors, self.fields)
        levels = len(self.dim_mults)
        for name in ("attention", "halves_time", "depths"):
            if len(getattr(self, name)) != levels:
                raise ValueError(f"{name}: expected {levels}, one of each of dim_mults, got {len(getattr(self, name))}")
        if self.dim % 2 or min(self.dim_mults) < 1 or min(self.depths) < 1:
            raise ValueError("expected an even dim, and dim_mults and depths of at least 1")
        uneven = [side for side in self.latent_size if side % self.side_step]
        if uneven:
            raise ValueError(f"input_size {uneven[0]}: {levels} levels need multiples of {self.side_step}")
        return self

    @property
    def side_step(self) -> int:
        """Height and width of the latents are multiples of this."""
        return int(2 ** len(self.dim_mults))

    @property
    def frame_step(self) -> int:
        """The frames of a clip of more than one are a multiple of this."""
        return int(2 ** sum(self.halves_time))


class Block(nn.Module):
    """Pseudo-3D convolution, RMS norm over channels, scale and shift by the time, SiLU."""

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        self.project = PseudoConv3d(dim, dim_out)
        self.norm = RmsNorm(dim_out)

    def normed(self, x: Tensor, scale_shift: Sequence[Tensor] = (), *, time: bool) -> Tensor:
        """(B, D, T, H, W) -> (B, D', T, H, W), what the SiLU is given."""
        h = self.norm(self.project(x, time=time), 1)
        return h * (scale_shift[0] + 1) + scale_shift[1] if scale_shift else h

    def forward(self, x: Tensor, scale_shift: Sequence[Tensor] = (), *, time: bool) -> Tensor:
        """(B, D, T, H, W), scale and shift (B, D', 1, 1, 1) -> (B, D', T, H, W)."""
        return F.silu(self.normed(x, scale_shift, time=time))


class ResidualBlock(nn.Module):
    """Two blocks with a residual, of which the first may be told the time (`condition`: K, 0 = it is not)."""

    def __init__(self, dim: int, dim_out: int, condition: int = 0) -> None:
        super().__init__()
        self.timestep = nn.Linear(condition, 2 * dim_out) if condition else None
        self.block1, self.block2 = Block(dim, dim_out), Block(dim_out, dim_out)
        self.shortcut: nn.Module = PseudoConv3d(dim, dim_out, 1) if dim != dim_out else nn.Identity()

    def scale_shift(self, c: Tensor | None) -> Sequence[Tensor]:
        """Of the time's embedding (B, K): scale and shift, each (B, D', 1, 1, 1)."""
        if self.timestep is None or c is None:
            return ()
        return self.timestep(F.silu(c))[..., None, None, None].chunk(2, dim=1)

    def forward(self, x: Tensor, c: Tensor | None = None, *, time: bool = True) -> Tensor:
        """(B, D, T, H, W) -> (B, D', T, H, W)."""
        h = self.block2(self.block1(x, self.scale_shift(c), time=time), time=time)
        return h + self.shortcut(x)


class ShiftedMlp(nn.Module):
    """A gated MLP with a norm inside, whose second half of hidden channels comes from the frame before."""

    def __init__(self, dim: int, ratio: int = 4) -> None:
        super().__init__()
        inner = int(dim * ratio * 2 / 3)  # two thirds, since the gate is a third projection
        self.proj_in = nn.Linear(dim, 2 * inner, bias=False)
        self.norm = RmsNorm(inner)
        self.proj_out = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor, *, time: bool) -> Tensor:
        """Tokens (B, T, S, D) -> (B, T, S, D)."""
        value, gate = self.proj_in(x).chunk(2, -1)
        h = value * F.gelu(gate)
        if time:
            stays, shifted = h.chunk(2, -1)
            h = torch.cat([stays, F.pad(shifted, (0, 0, 0, 0, 1, -1))], -1)  # the first frame is given zeros
        return self.proj_out(self.norm(h))


class SpaceTimeAttention(nn.Module):
    """Attention within each frame, along each place's track, and a gated MLP, each added to its input."""

    def __init__(self, dim: int, heads: int, head_dim: int, *, bias: bool = True) -> None:
        super().__init__()
        self.spatial_attn = ResidualAttention(dim, heads, head_dim, axes=2 if bias else 0)
        self.temporal_attn = ResidualAttention(dim, heads, head_dim, axes=1 if bias else 0)
        self.ff = ShiftedMlp(dim)

    def forward(self, x: Tensor, *, time: bool = True) -> Tensor:
        """(B, D, T, H, W) -> (B, D, T, H, W)."""
        H, W = x.shape[3:]
        h = self.spatial_attn.over_places(x.flatten(3).permute(0, 2, 3, 1), (H, W))  # (B, T, S, D)
        if time:
            h = self.temporal_attn.over_tracks(h)
        h = h + self.ff(h, time=time)
        return h.permute(0, 3, 1, 2).unflatten(3, (H, W))


class Halving(nn.Module):
    """Half the sides by moving 2 x 2 places into channels and a linear layer; half the frames the same way."""

    def __init__(self, dim: int, *, halves_time: bool) -> None:
        super().__init__()
        self.space = nn.Conv2d(4 * dim, dim, 1, bias=False)
        self.time = nn.Conv1d(2 * dim, dim, 1, bias=False) if halves_time else None

    def forward(self, x: Tensor, *, time: bool = True) -> Tensor:
        """(B, D, T, H, W) -> (B, D, T or T/2, H/2, W/2)."""
        x = unfold_frames(self.space(F.pixel_unshuffle(fold_frames(x), 2)), len(x))
        if self.time is None or not time:
            return x
        pairs = x.unflatten(2, (-1, 2)).transpose(2, 3).flatten(1, 2)  # (B, D, T, h, w) -> (B, 2 D, T/2, h, w)
        return F.conv3d(pairs, self.time.weight[..., None, None])


class Doubling(nn.Module):
    """Twice the sides, and twice the frames, the other way round."""

    def __init__(self, dim: int, *, halves_time: bool) -> None:
        super().__init__()
        self.space = nn.Conv2d(dim, 4 * dim, 1)
        self.time = nn.Conv1d(dim, 2 * dim, 1) if halves_time else None
        for conv, copies in ((self.space, 4), (self.time, 2)):
            if conv is not None:
                _repeat_rows(conv, copies)

    def forward(self, x: Tensor, *, time: bool = True) -> Tensor:
        """(B, D, T, H, W) -> (B, D, T or 2T, 2H, 2W)."""
        x = unfold_frames(F.pixel_shuffle(self.space(fold_frames(x)), 2), len(x))
        if self.time is None or not time:
            return x
        both = F.conv3d(x, self.time.weight[..., None, None], self.time.bias)  # (B, 2 D, T, h, w)
        return both.unflatten(1, (-1, 2)).transpose(2, 3).flatten(2, 3)  # of each frame two, one behind the other


@torch.no_grad()
def _repeat_rows(conv: nn.Module, copies: int) -> None:
    """Let all places (or frames) that one becomes begin alike, so that there is no pattern in what is doubled."""
    assert isinstance(conv, nn.Conv1d | nn.Conv2d) and conv.bias is not None
    rows = torch.empty_like(conv.weight[::copies])
    nn.init.kaiming_uniform_(rows)
    conv.weight.copy_(rows.repeat_interleave(copies, 0))
    nn.init.zeros_(conv.bias)


class DownLevel(nn.Module):
    """A residual block that is told the time, others, attention, and half the size: (D, H, W) -> (D', H/2, W/2)."""

    def __init__(self, config: SpaceTimeUnetConfig, level: int, dim: int, dim_out: int) -> None:
        super().__init__()
        self.first = ResidualBlock(dim, dim_out, 4 * config.dim)
        self.blocks = nn.ModuleList(ResidualBlock(dim_out, dim_out) for _ in range(config.depths[level]))
        self.attn = _attention(config, dim_out) if config.attention[level] else None
        self.resample = Halving(dim_out, halves_time=config.halves_time[level])

    def forward(self, x: Tensor, c: Tensor, *, time: bool) -> tuple[Tensor, Tensor, Tensor]:
        """What the way up is given of this level, twice (behind the first block and at its end), and what goes on."""
        first = x = self.first(x, c, time=time)
        for block in self.blocks:
            x = block(x, time=time)
        if self.attn is not None:
            x = self.attn(x, time=time)
        return first, x, self.resample(x, time=time)


class UpLevel(nn.Module):
    """Twice the size, and the same of what the way down left of this level: (D', H, W) -> (D, 2H, 2W)."""

    def __init__(self, config: SpaceTimeUnetConfig, level: int, dim: int, dim_out: int) -> None:
        super().__init__()
        self.resample = Doubling(dim_out, halves_time=config.halves_time[level])
        self.first = ResidualBlock(2 * dim_out, dim, 4 * config.dim)
        widths = [dim + dim_out, *[dim] * (config.depths[level] - 1)]
        self.blocks = nn.ModuleList(ResidualBlock(width, dim) for width in widths)
        self.attn = _attention(config, dim) if config.attention[level] else None

    def forward(self, x: Tensor, c: Tensor, first: Tensor, last: Tensor, *, time: bool) -> Tensor:
        """x (B, D', T, H, W) and what the level left on the way down, in its order -> (B, D, T, 2H, 2W)."""
        x = self.resample(x, time=time)
        x = self.first(torch.cat([last * SKIP_SCALE, x], 1), c, time=time)
        x = torch.cat([first * SKIP_SCALE, x], 1)
        for block in self.blocks:
            x = block(x, time=time)
        return x if self.attn is None else self.attn(x, time=time)


def _attention(config: SpaceTimeUnetConfig, dim: int) -> SpaceTimeAttention:
    return SpaceTimeAttention(dim, config.num_heads, config.head_dim, bias=config.position_bias)


class SpaceTimeUnet(Denoiser):
    """The U-Net of pseudo-3D layers; see `SpaceTimeUnetConfig`. A condition that is not given counts as null.

    Attention within a frame can't be told to read other frames: where levels halve the frames, there are none such.
    """

    Config = SpaceTimeUnetConfig
    config: SpaceTimeUnetConfig
    block_lists = ("downs", "ups")
    label_embedder: LabelEmbedder
    text_pooling: TextPooling
    text_projection: nn.Linear

    def __init__(self, config: SpaceTimeUnetConfig) -> None:
        super().__init__()
        self.config = config
        dim, K = config.dim, 4 * config.dim
        self.spec = DenoiserSpec(
            config.in_channels, False, config.num_classes, config.text_dim,
            more=named_ports(config.vectors, config.fields),
        )  # fmt: skip
        self.time_linear = nn.Linear(dim, K)
        if config.num_classes:
            self.label_embedder = LabelEmbedder(config.num_classes, K)
        if config.text_dim:
            self.text_pooling, self.text_projection = TextPooling(config.text_dim), nn.Linear(config.text_dim, K)
        self.vector_ports = ConditionPorts(config.vectors, {}, K, 1)
        self.field_ports = ConditionPorts({}, config.fields, dim, 1)
        self.conv_in = PseudoConv3d(config.in_channels, dim, 7)
        pairs = list(enumerate(pairwise([dim, *(dim * m for m in config.dim_mults)])))
        self.downs = nn.ModuleList(DownLevel(config, level, a, b) for level, (a, b) in pairs)
        deepest = dim * config.dim_mults[-1]
        self.mid_block1, self.mid_block2 = (ResidualBlock(deepest, deepest, K) for _ in range(2))
        self.mid_attn = _attention(config, deepest)
        self.ups = nn.ModuleList(UpLevel(config, level, a, b) for level, (a, b) in reversed(pairs))
        self.conv_out = PseudoConv3d(dim, config.in_channels)

    def forward(self, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None = None) -> Tensor:
        """z (B, C, T, H, W), t (B,), conditions -> prediction (B, C, T, H, W).

        Raises:
            InputError: where a shape is wrong or a condition is given that the model was not built for.
        """
        self.check_inputs(z, t, conditions)
        _ = self.reach_lists(z.shape[2], options)  # which refuses to be told of other frames
        self._check_steps(z)
        return self.predict(z, self.embedding(t, conditions), conditions, options, time=z.shape[2] > 1)

    def predict(
        self, z: Tensor, c: Tensor, conditions: Conditions, options: ForwardOptions | None, *, time: bool
    ) -> Tensor:
        """The prediction for latents and the time's embedding c (B, K), with the layers over time or without them."""
        added = self.residuals(options)
        x = self.conv_in(fast_layout(z.to(self.conv_in.spatial_conv.weight.dtype)), time=time)
        x = run_blocks(self._add_fields(x, conditions), options, lambda x: self._levels(x, c, added, time),
                       lambda x: self._modulated(x, c, time))  # fmt: skip
        return self.conv_out(x, time=time)

    def _levels(self, x: Tensor, c: Tensor, added: Any, time: bool) -> Tensor:
        """Down, middle and up: (B, D, T, H, W) -> the same."""
        left = []
        for number, level in enumerate(self.downs):
            first, last, x = level(x, c, time=time)
            left.append((first, last))
            if number in added:
                x = x + added[number]
        x = self.mid_attn(self.mid_block1(x, c, time=time), time=time)
        x = self.mid_block2(x, c, time=time)
        for level in self.ups:
            x = level(x, c, *left.pop(), time=time)
        return x

    def _modulated(self, x: Tensor, c: Tensor, time: bool) -> Tensor:
        """What the first block's SiLU is given: its norm, scaled and shifted by the time."""
        level: Any = self.downs[0]
        return level.first.block1.normed(x, level.first.scale_shift(c), time=time)

    def embedding(self, t: Tensor, conditions: Conditions) -> Tensor:
        """Embedding (B, K) of the time, to which a class, a pooled prompt and other vectors are added."""
        c = F.silu(self.time_linear(sine_features(t, self.config.dim).to(self.time_linear.weight.dtype)))
        if self.config.num_classes:
            label = conditions.label
            if label is None:
                label = torch.full(t.shape, self.spec.unlabelled, device=t.device)
            c = c + self.label_embedder(label, conditions.null_of("label"))
        if self.config.text_dim:
            text, null = conditions.text, conditions.null_of("text")
            pooled = self.text_pooling.null.expand(len(t), -1)
            if text is not None:
                pooled = self.text_pooling(text, conditions.text_mask, null)
            c = c + self.text_projection(pooled)
        return self.vector_ports.add_vectors(c, conditions)

    def _add_fields(self, x: Tensor, conditions: Conditions) -> Tensor:
        """(B, D, T, H, W) and what is told by fields."""
        if not self.config.fields:
            return x
        told = self.field_ports.add_fields(x.flatten(3).permute(0, 2, 3, 1), conditions)
        return told.permute(0, 3, 1, 2).unflatten(3, x.shape[3:])

    def models_time(self, name: str) -> bool:
        """Convolutions and attention over frames, and the steps to fewer or more of them."""
        return any(part in name for part in ("temporal_", "resample.time."))

    @property
    def partly_used(self) -> bool:
        """Images leave the layers over time out."""
        return True

    def _check_steps(self, z: Tensor) -> None:
        (T, H, W), sides, frames = z.shape[2:], self.config.side_step, self.config.frame_step
        if H % sides or W % sides:
            raise InputError(f"expected latents with height and width in multiples of {sides}, got {H} x {W}")
        if T > 1 and T % frames:
            raise InputError(f"expected one latent frame or a multiple of {frames}, got {T}")
