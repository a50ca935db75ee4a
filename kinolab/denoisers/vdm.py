"""Video Diffusion Models (Ho et al., 2022, arXiv:2204.03458): a 3D U-Net factorised over space and time.

The image U-Net with every k x k convolution made 1 x k x k, attention over the places of each frame, and behind it
attention over the frames at each place, which knows distances in time (section 3). One frame is the image model, and
single images behind a clip are left out of the attention over time, so that both are trained at once (section 3.2).
The layers in detail, and the layout of `kinolab.checkpoints.vdm`, are those of the most used public code
(lucidrains/video-diffusion-pytorch): linear attention in space on every level, rotary positions and a bucketed bias in
time.

Shapes: B batch, C channels of the latents, T frames, S = H x W places, D channels of a level, N heads of size d, K
width of the condition. Frames are (B * T, D, H, W), tokens (B, T, S, D).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kinolab.contracts.conditions import Port
from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Lists, Reach
from kinolab.denoisers.base import BaseDenoiserConfig, Conditions, Denoiser, DenoiserSpec, run_blocks
from kinolab.errors import InputError
from kinolab.layers.attention import attend_frames, dot_product_attention
from kinolab.layers.embeddings import LabelEmbedder, TextPooling, apply_rotary, sine_features
from kinolab.layers.lora import LoraLinear
from kinolab.layers.normalization import fast_layout, fold_frames, unfold_frames
from kinolab.layers.ports import ConditionPorts, check_port_names, named_ports
from kinolab.layers.relative_bias import RelativeBias

ROTARY = 32
"""At most so many numbers of a head are turned by their positions in time."""


class VdmConfig(BaseDenoiserConfig):
    """The U-Net's fields; the defaults are those of the public code."""

    published = {"diffusion": {"schedule": "cosine", "max_beta": 0.9999}}  # noqa: RUF012

    kind: Literal["vdm"] = "vdm"
    dim: int = Field(64, ge=4)
    """Channels of the first level, an even number."""
    dim_mults: tuple[int, ...] = (1, 2, 4, 8)
    """Channels of each level in units of dim; every step to the next one halves the sides."""
    num_heads: int = Field(8, ge=1)
    """Attention heads N, in space and time."""
    head_dim: int = Field(32, ge=2)
    """Size d of a head in time, an even number."""
    spatial_head_dim: int = Field(32, ge=1)
    """Size of a head in space."""
    spatial_attention: Literal["linear", "full", "none"] = "linear"
    """Attention in space on every level: linear in the places, by softmax, or in the middle alone, where it is always
    by softmax."""
    input_kernel: int = Field(7, ge=1)
    """Side of the first convolution's kernel, an odd number."""
    in_channels: int = Field(4, ge=1)
    """Channels of the latents; 3 for pixels."""
    out_channels: int | None = Field(None, ge=1)
    """Channels of the output, where they are neither as many as the latents' nor twice as many (learned_variance)."""
    input_size: int | tuple[int, int] = 32
    """Height and width of the latents in training (one number: both); others need no change of the network."""
    num_frames: int = Field(16, ge=1)
    """Latent frames in training; others need no change of the network."""
    num_classes: int = Field(0, ge=0)
    """Class labels 0 .. num_classes - 1; num_classes itself is the null class; 0 = no labels."""
    pooled_dim: int = Field(0, ge=0)
    """Width of a pooled prompt embedding; 0 = none. The public code's `cond_dim`."""
    text_dim: int = Field(0, ge=0)
    """Width of a prompt's token states, which attention pooling makes one vector (section 4.1); 0 = none."""
    learned_variance: bool = False
    """Predict 2C channels: the second half interpolates the log variance."""
    focus: bool = False
    """Take the condition `focus`: clips in which attention over time sees the present frame alone."""
    gradient_checkpointing: bool = False
    """Recompute each level in the backward pass: less memory for about a third more time."""
    vectors: dict[str, int] = Field(default_factory=dict)
    """More conditions that join the time's embedding, by name (`kinolab.conditioning`), and their widths; 0 = one
    number, such as noise_level: 0."""
    fields: dict[str, int] = Field(default_factory=dict)
    """More conditions that lie beside the latents, by name, and their channels, such as control: 4."""

    @model_validator(mode="after")
    def _check(self) -> VdmConfig:
        check_port_names(self.vectors, self.fields)
        if "focus" in self.vectors:
            raise ValueError("vectors.focus: set focus: true instead")
        for name, odd in (("dim", 0), ("head_dim", 0), ("input_kernel", 1)):
            if getattr(self, name) % 2 != odd:
                raise ValueError(f"{name}: expected an {'odd' if odd else 'even'} number, got {getattr(self, name)}")
        if not self.dim_mults or min(self.dim_mults) < 1:
            raise ValueError(f"dim_mults: expected one number or more, each of at least 1, got {list(self.dim_mults)}")
        if self.learned_variance and self.out_channels not in (None, 2 * self.in_channels):
            raise ValueError(f"learned_variance has {2 * self.in_channels} output channels: leave out_channels out")
        uneven = [side for side in self.latent_size if side % self.side_step]
        if uneven:
            raise ValueError(f"input_size {uneven[0]}: {len(self.dim_mults)} levels need multiples of {self.side_step}")
        return self

    @property
    def side_step(self) -> int:
        """Height and width of the latents are multiples of this."""
        return int(2 ** (len(self.dim_mults) - 1))

    @property
    def output_channels(self) -> int:
        """Channels of the output."""
        return self.out_channels or self.in_channels * (2 if self.learned_variance else 1)

    @property
    def condition_width(self) -> int:
        """K: the time's embedding (4 dim) with what joins it, in this order: pooled prompt, text, label."""
        return 4 * self.dim + self.pooled_dim + self.text_dim + (self.dim if self.num_classes else 0)


@dataclass(frozen=True)
class Context:
    """What all layers need of a call beside the frames.

    c: (B * T, K), or (B, K) where a clip's frames are told the same. frames: T. images: of them, single images at the
    end. bias: (N, T', T') of the T' frames of the clip itself; rotary: their cosines and sines, each (T', R). lists:
    frames that attention in space reads; focus: (B,) bool, True = over time the present frame is seen alone.
    """

    c: Tensor
    frames: int
    images: int
    bias: Tensor
    rotary: tuple[Tensor, Tensor]
    lists: Lists | None = None
    focus: Tensor | None = None


class FrameConv(nn.Conv2d):
    """A 1 x k x k convolution: each frame (B * T, D, H, W) by itself."""


class Block(nn.Module):
    """1 x 3 x 3 convolution, RMS norm over channels, scale and shift by the condition, SiLU."""

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        self.conv = FrameConv(dim, dim_out, 3, padding=1)
        self.gamma = nn.Parameter(torch.ones(dim_out))

    def normed(self, x: Tensor, scale_shift: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Frames (B * T, D, H, W) -> (B * T, D', H, W), what the SiLU is given."""
        h = self.conv(x)
        length = torch.linalg.vector_norm(h, dim=1, keepdim=True, dtype=torch.float32).clamp(min=1e-12)
        # A root mean square of 1 is a length of sqrt(D'); `length` is (B * T, 1, H, W).
        h = h * (h.shape[1] ** 0.5 / length).to(h.dtype) * self.gamma.view(-1, 1, 1).to(h.dtype)
        if scale_shift is None:
            return h
        scale, shift = scale_shift
        return h * (1 + scale) + shift

    def forward(self, x: Tensor, scale_shift: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Frames (B * T, D, H, W), scale and shift (B * T, D', 1, 1) -> (B * T, D', H, W)."""
        return F.silu(self.normed(x, scale_shift))


class ResidualBlock(nn.Module):
    """Two blocks with a residual; the condition scales and shifts between the first one's norm and SiLU."""

    def __init__(self, dim: int, dim_out: int, condition: int = 0) -> None:
        super().__init__()
        if condition:
            self.condition = nn.Linear(condition, 2 * dim_out)
        self.block1, self.block2 = Block(dim, dim_out), Block(dim_out, dim_out)
        self.shortcut: nn.Module = FrameConv(dim, dim_out, 1) if dim != dim_out else nn.Identity()

    def scale_shift(self, context: Context, rows: int) -> tuple[Tensor, Tensor]:
        """Scale and shift, each (rows, D', 1, 1) for rows = B * T frames."""
        both = self.condition(F.silu(context.c))  # (B or B * T, 2 D')
        if len(both) != rows:
            both = both.repeat_interleave(context.frames, 0)  # (B, 2 D') -> (B * T, 2 D')
        scale, shift = both[..., None, None].chunk(2, dim=1)
        return scale, shift

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Frames (B * T, D, H, W) -> (B * T, D', H, W); without a context, by no condition."""
        h = self.block1(x, None if context is None else self.scale_shift(context, len(x)))
        return self.shortcut(x) + self.block2(h)


class LinearAttention(nn.Module):
    """Attention over the places of each frame at a cost linear in them (Shen et al. 2018, Efficient Attention).

    Softmax of the queries over a head's numbers, of the keys over the places; no matrix of places by places is made.
    """

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = (num_heads, head_dim)
        self.qkv = nn.Linear(dim, 3 * num_heads * head_dim, bias=False)
        self.proj = nn.Linear(num_heads * head_dim, dim)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Tokens (B, T, S, D) -> (B, T, S, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, *self.heads)).unbind(-3)  # (B, T, S, N, d)
        q = q.softmax(-1) * self.heads[1] ** -0.5
        if context.lists is None:
            read = torch.einsum("btsnd,btsne->btnde", k.softmax(2), v)  # (B, T, N, d, d): no axis of places is left
        else:
            read = _read_frames(k, v, context.lists)
        return self.proj(torch.einsum("btsnd,btnde->btsne", q, read).flatten(-2))


def _read_frames(k: Tensor, v: Tensor, lists: Lists) -> Tensor:
    """What each frame's linear attention reads of the frames in its list: (B, T, S, N, d) twice -> (B, T, N, d, d).

    The softmax runs over all places of those frames. Its sums are taken once for each frame and added up by the lists,
    so that no key is copied.
    """
    # The same is taken off in all frames, so that it cancels in the quotient below.
    weight = (k.float() - k.float().amax((1, 2), keepdim=True)).exp()
    counts = weight.new_zeros(len(lists), len(lists))  # how often frame t (row) reads frame r (column)
    for frame, read in enumerate(lists):
        for other in read:
            counts[frame, other] += 1
    sums = torch.einsum("tr,brnde->btnde", counts, torch.einsum("btsnd,btsne->btnde", weight, v.float()))
    # The softmax's denominators, for every number of a key.
    norms = torch.einsum("tr,brnd->btnd", counts, weight.sum(2))
    return (sums / norms[..., None]).to(v.dtype)


class FullAttention(nn.Module):
    """Softmax attention over the places of each frame."""

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = (num_heads, head_dim)
        self.qkv = nn.Linear(dim, 3 * num_heads * head_dim, bias=False)
        self.proj = nn.Linear(num_heads * head_dim, dim, bias=False)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Tokens (B, T, S, D) -> (B, T, S, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, *self.heads)).unbind(-3)  # (B, T, S, N, d)
        lists = context.lists or Reach("own").lists(context.frames)
        return self.proj(attend_frames(q, k, v, lists))


class TemporalAttention(nn.Module):
    """Softmax attention over the frames at each place, with rotary positions and a bias by distance.

    A single image behind a clip reads itself alone; so does every frame of a clip in `focus`. A softmax over one key is
    1, so that such a frame is given its own value.
    """

    halves: Tensor

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = (num_heads, head_dim)
        self.qkv = nn.Linear(dim, 3 * num_heads * head_dim, bias=False)
        self.proj = nn.Linear(num_heads * head_dim, dim, bias=False)
        self.register_buffer("halves", _halves(num_heads, head_dim), persistent=False)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Tokens (B, T, S, D) -> (B, T, S, D)."""
        B, T, S, _ = x.shape
        clip = T - context.images
        # One projection for all: of a batch of images alone every weight still has a gradient.
        whole = self.qkv(x)[..., self.halves] if isinstance(self.qkv, LoraLinear) else self._projected(x)
        q, k, v = whole.unflatten(-1, (3, *self.heads)).unbind(-3)  # (B, T, S, N, d)
        out = v
        if clip:
            # (B, T', S, N, d) -> (B * S, N, T', d): every place is a sequence of frames
            q, k, of_clip = (a[:, :clip].permute(0, 2, 3, 1, 4).flatten(0, 1).contiguous() for a in (q, k, v))
            q, k = _turned(q, *context.rotary), _turned(k, *context.rotary)
            seen = dot_product_attention(q, k, of_clip, context.bias[None])  # the bias is (1, N, T', T')
            seen = seen.unflatten(0, (B, S)).permute(0, 3, 1, 2, 4)  # (B, T', S, N, d)
            out = torch.cat([seen, v[:, clip:]], 1) if context.images else seen
        if context.focus is not None:
            out = torch.where(context.focus.view(-1, 1, 1, 1, 1), v, out)
        return self.proj(out.flatten(-2))

    def _projected(self, x: Tensor) -> Tensor:
        """Queries, keys and values in the order of `_halves`; the rows of a weight are moved with less work."""
        return F.linear(x, self.qkv.weight[self.halves])


def _halves(num_heads: int, head_dim: int) -> Tensor:
    """The rows of a projection to queries, keys and values by which the pairs that turn stand R / 2 apart.

    The public code turns neighbours, (2i, 2i + 1); `apply_rotary` turns (i, i + R / 2), which a processor does much
    faster. Queries and keys are put in the same other order, so that their products stay.
    """
    turned = min(ROTARY, head_dim)
    head = torch.cat([torch.arange(0, turned, 2), torch.arange(1, turned, 2), torch.arange(turned, head_dim)])
    rows = torch.arange(3 * num_heads * head_dim).view(3, num_heads, head_dim)
    return torch.cat([rows[:2, :, head], rows[2:]]).flatten()


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (..., T, d) with the pairs of its first R numbers turned by their angles; cos and sin (T, R)."""
    count = cos.shape[-1]
    if count == x.shape[-1]:
        return apply_rotary(x, cos, sin)
    return torch.cat([apply_rotary(x[..., :count], cos, sin), x[..., count:]], -1)


class AttentionLayer(nn.Module):
    """x + attention(norm(x)) of frames, the norm over channels."""

    def __init__(self, dim: int, attention: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-5, bias=False)
        self.attn = attention

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Frames (B * T, D, H, W) -> (B * T, D, H, W)."""
        H, W = x.shape[-2:]
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2).unflatten(0, (-1, context.frames))  # (B, T, S, D)
        out = self.attn(self.norm(tokens), context).to(x.dtype)
        return x + out.flatten(0, 1).unflatten(1, (H, W)).permute(0, 3, 1, 2)  # (B, T, S, D) -> (B * T, D, H, W)


def spatial_layer(config: VdmConfig, dim: int, kind: str) -> nn.Module:
    """Attention in space of a level, or nothing."""
    heads = (config.num_heads, config.spatial_head_dim)
    if kind == "none":
        return nn.Identity()
    return AttentionLayer(dim, (LinearAttention if kind == "linear" else FullAttention)(dim, *heads))


def temporal_layer(config: VdmConfig, dim: int) -> AttentionLayer:
    """Attention over time of a level."""
    return AttentionLayer(dim, TemporalAttention(dim, config.num_heads, config.head_dim))


class Level(nn.Module):
    """Two residual blocks, attention in space, attention over time, and the way to the next level's size."""

    def __init__(self, config: VdmConfig, dim: int, dim_out: int, resample: nn.Module, attention: str = "") -> None:
        super().__init__()
        self.block1 = ResidualBlock(dim, dim_out, config.condition_width)
        self.block2 = ResidualBlock(dim_out, dim_out, config.condition_width)
        self.spatial_attn = spatial_layer(config, dim_out, attention or config.spatial_attention)
        self.temporal_attn = temporal_layer(config, dim_out)
        self.resample = resample

    def forward(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Frames (B * T, D, H, W) -> those of the level (B * T, D', H, W), and the same at the next size."""
        h = self.block2(self.block1(x, context), context)
        if not isinstance(self.spatial_attn, nn.Identity):
            h = self.spatial_attn(h, context)
        h = self.temporal_attn(h, context)
        return h, self.resample(h)


class Middle(nn.Module):
    """Residual block, softmax attention in space, attention over time, residual block."""

    def __init__(self, config: VdmConfig, dim: int) -> None:
        super().__init__()
        self.block1 = ResidualBlock(dim, dim, config.condition_width)
        self.spatial_attn = spatial_layer(config, dim, "full")
        self.temporal_attn = temporal_layer(config, dim)
        self.block2 = ResidualBlock(dim, dim, config.condition_width)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Frames (B * T, D, H, W) -> (B * T, D, H, W)."""
        x = self.spatial_attn(self.block1(x, context), context)
        return self.block2(self.temporal_attn(x, context), context)


class Vdm(Denoiser):
    """The 3D U-Net; see `VdmConfig`. A condition that is not given counts as null.

    In joint training the last frames, `image_frames` of the conditions, are single images: nothing flows between them
    and the clip or each other. Their labels and prompts may differ from the clip's: then label is
    (B, 1 + image_frames), pooled and text likewise have 1 + image_frames in their second place.
    """

    Config = VdmConfig
    block_lists = ("downs", "ups")
    reach = Reach("own")
    label_embedder: LabelEmbedder
    text_pooling: TextPooling
    null_condition: nn.Parameter
    rotary_frequencies: Tensor

    def __init__(self, config: VdmConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        more = (*named_ports(config.vectors, config.fields), *([Port("focus", "vector")] if config.focus else []))
        self.spec = DenoiserSpec(
            config.in_channels, config.learned_variance, config.num_classes, config.text_dim, config.pooled_dim,
            joint_images=True, more=more,
        )  # fmt: skip
        self.time_mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, 4 * dim))
        if config.num_classes:
            self.label_embedder = LabelEmbedder(config.num_classes, dim)
        if config.text_dim:
            self.text_pooling = TextPooling(config.text_dim)
        if config.pooled_dim:
            self.null_condition = nn.Parameter(torch.randn(config.pooled_dim))
        self.vector_ports = ConditionPorts(config.vectors, {}, 4 * dim, 1)
        self.field_ports = ConditionPorts({}, config.fields, dim, 1)
        self.relative_bias = RelativeBias(config.num_heads)
        turned = min(ROTARY, config.head_dim)
        steps = torch.arange(0, turned - 1, 2, dtype=torch.float32) / turned
        self.register_buffer("rotary_frequencies", 1.0 / 10000.0**steps)
        self.input_conv = FrameConv(config.in_channels, dim, config.input_kernel, padding=config.input_kernel // 2)
        self.input_temporal_attn = temporal_layer(config, dim)
        widths = [dim, *(dim * m for m in config.dim_mults)]
        pairs, deepest = list(pairwise(widths)), widths[-1]
        self.downs = nn.ModuleList(
            Level(config, a, b, nn.Identity() if i == len(pairs) - 1 else nn.Conv2d(b, b, 4, 2, 1))
            for i, (a, b) in enumerate(pairs)
        )
        self.middle = Middle(config, deepest)
        self.ups = nn.ModuleList(
            Level(config, 2 * b, a, nn.Identity() if i == 0 else nn.ConvTranspose2d(a, a, 4, 2, 1))
            for i, (a, b) in reversed(list(enumerate(pairs)))
        )
        self.output_block = ResidualBlock(2 * dim, dim)
        self.output_conv = FrameConv(dim, config.output_channels, 1)

    def forward(self, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None = None) -> Tensor:
        """z (B, C, T, H, W), t (B,), conditions -> prediction (B, C or 2C, T, H, W).

        Raises:
            InputError: where a shape is wrong or a condition is given that the model was not built for.
        """
        self.check_inputs(z, t, conditions)
        context = self._context(z, t, conditions, options)
        added = self.residuals(options)
        x = self.input_conv(fold_frames(fast_layout(z.to(self.input_conv.weight.dtype))))  # (B * T, D, H, W)
        x = self._add_fields(x, conditions, context)
        # The first attention over time is never told of `focus` (the public code's choice, which its weights know).
        x = self.input_temporal_attn(x, replace(context, focus=None))
        first = x
        x = run_blocks(x, options, lambda x: self._levels(x, context, added), lambda x: self._modulated(x, context))
        x = self.output_block(torch.cat([x, first], 1))
        return unfold_frames(self.output_conv(x), len(z))

    def _levels(self, x: Tensor, context: Context, added: Mapping[int, Tensor]) -> Tensor:
        """Down, middle and up: frames (B * T, D, H, W) -> the same."""
        skips = []
        for i, level in enumerate(self.downs):
            h, x = self._run(level, x, context)
            skips.append(h)
            if i in added:
                x = x + added[i]
        x = self._run(self.middle, x, context)
        for level in self.ups:
            _, x = self._run(level, torch.cat([x, skips.pop()], 1), context)
        return x

    def _run(self, module: nn.Module, x: Tensor, context: Context) -> Any:
        if self.config.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(module, x, context, use_reentrant=False)
        return module(x, context)

    def _modulated(self, x: Tensor, context: Context) -> Tensor:
        """What the first block's SiLU is given: its norm, scaled and shifted by the condition."""
        first: Any = self.downs[0]
        return first.block1.block1.normed(x, first.block1.scale_shift(context, len(x)))

    def models_time(self, name: str) -> bool:
        """Attention over time, and the bias by distance."""
        return "temporal_attn." in name or name.startswith("relative_bias.")

    def _context(self, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None) -> Context:
        T, H, W = z.shape[2:]
        images, step = conditions.image_frames, self.config.side_step
        if H % step or W % step:
            raise InputError(f"expected latents with height and width in multiples of {step}, got {H} x {W}")
        if not 0 <= images <= T:
            raise InputError(f"expected image_frames from 0 to {T} (the number of frames), got {images}")
        lists = self.reach_lists(T, options)
        if lists is not None and images:
            raise InputError("reach: single images beside a clip read their own places alone: leave it out")
        place = torch.arange(T - images, dtype=torch.float32, device=z.device)
        angles = (place[:, None] * self.rotary_frequencies.float()).repeat(1, 2)  # (T', R), both of a pair alike
        focus = conditions.tensor("focus")
        if focus is not None:
            null = conditions.null_of("focus")
            focus = (focus > 0.5) if null is None else (focus > 0.5) & ~null
        c = self._condition(t, conditions, T)
        return Context(c, T, images, self.relative_bias(T - images), (angles.cos(), angles.sin()), lists, focus)

    def _condition(self, t: Tensor, conditions: Conditions, frames: int) -> Tensor:
        """Embedding (B, K) of time and all that joins it, or (B * T, K) where single images are told their own."""
        features = sine_features(t, self.config.dim)  # (B, D)
        time = self.time_mlp(features.to(next(self.time_mlp.parameters()).dtype))
        parts = [self.vector_ports.add_vectors(time, conditions)[:, None], *self._prompt(t, conditions)]
        rows = max(part.shape[1] for part in parts)  # 1, or 1 + images
        c = torch.cat([part.expand(-1, rows, -1) for part in parts], -1)
        if rows == 1:
            return c[:, 0]
        of_clip = c[:, :1].expand(-1, frames - conditions.image_frames, -1)
        return torch.cat([of_clip, c[:, 1:]], 1).flatten(0, 1)

    def _prompt(self, t: Tensor, conditions: Conditions) -> list[Tensor]:
        """Pooled prompt, text and label, each (B, 1 or 1 + images, width)."""
        config, parts = self.config, []
        if config.pooled_dim:
            value = conditions.pooled
            null = _rows(conditions, "pooled", None if value is None else value.ndim - 1, t)
            value = self.null_condition.expand(len(t), -1) if value is None else value.to(self.null_condition.dtype)
            parts.append(torch.where(null[..., None], self.null_condition, value))
        if config.text_dim:
            value = conditions.text
            null = _rows(conditions, "text", None if value is None else value.ndim - 2, t)
            mask = conditions.text_mask
            value = self.text_pooling.null.expand(len(t), 1, -1) if value is None else value
            parts.append(self.text_pooling(value, mask, null))
        if config.num_classes:
            label = conditions.label
            null = _rows(conditions, "label", None if label is None else label.ndim, t)
            if label is None:
                label = torch.full(t.shape, self.spec.unlabelled, device=t.device)
                null = torch.zeros_like(null)
            parts.append(self.label_embedder(label, null))
        return [part if part.ndim == 3 else part[:, None] for part in parts]

    def _add_fields(self, x: Tensor, conditions: Conditions, context: Context) -> Tensor:
        """Frames (B * T, D, H, W) and what is told by fields; a 1 x 1 convolution of each, from zero on."""
        if not self.config.fields:
            return x
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2).unflatten(0, (-1, context.frames))  # (B, T, S, D)
        told = self.field_ports.add_fields(tokens, conditions)
        return told.flatten(0, 1).unflatten(1, x.shape[-2:]).permute(0, 3, 1, 2)


def _rows(conditions: Conditions, name: str, rank: int | None, t: Tensor) -> Tensor:
    """Where a condition is null: (B,), or (B, 1) where images have rows of their own; all where it is not told."""
    if rank is None:
        return torch.ones_like(t, dtype=torch.bool)
    null = conditions.null_of(name)
    null = torch.zeros_like(t, dtype=torch.bool) if null is None else null
    return null if rank == 1 else null[:, None]
