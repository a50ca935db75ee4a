"""MMDiT: the multimodal transformer of Stable Diffusion 3 and 3.5 (Esser et al., 2024, arXiv:2403.03206), and its
extension to video.

Text and image tokens have weights of their own and meet in one attention (figure 2 of the paper). SD3.5 adds RMS norms
of queries and keys, and (medium) a second attention of the image tokens alone in some blocks. Parameter names follow
the original checkpoints, so that an image model is `attention: 2d` with one frame. Times are in units of 1000 * t with
t = 1 the noise, as SD3 was trained with and as `kinolab.diffusion` passes them for `schedule: flow`.

Video, by `MmditConfig.attention`:

- `2d`: every frame attends to itself and to the prompt, as a batch of images. Each frame has a text stream of its own,
  updated by that frame alone, because the image model's text tokens read the image: so T frames give T image answers.
- `3d`: the same weights over the tokens of all frames and one text stream.
- `2d+3d`: `2d`, and beside it in every block a copy of the image tokens' attention (`attn_global`) over the tokens of
  all frames. The prompt reaches it through the tokens. Its output projection starts at zero, and the image model's own
  gate weighs the sum of both.

With `temporal_patch: 2` a clip of an odd number of frames begins with a frame that is a patch by itself, through the
image model's embedding and head; the rest, and a clip of an even number, are pairs with an embedding and a head of
their own. A single frame is thus exactly what the image model is given. Nothing else in a fresh or inflated video
model acts on one frame: its time is 0, which rotary attention leaves as it is and where the temporal table is zero.

The image model and its extension stand side by side here, which makes the file longer than most.

With a block-causal reach (`kinolab.contracts.causal`) the attention over all frames is that of each block over itself
and the past, and every block has a text stream of its own, which reads what the block reads: one text of the whole clip
would carry later frames to earlier ones. A single block is the model as it was trained.

Shapes: B batch, C channels, T frames (after pairing), S tokens per frame, L text tokens, F sequences that attend apart
(T in 2d, 1 in 3d, blocks where they are causal), D width. Tokens are (B, T, S, D), text (B, F, L, D), conditions
(B, 1, D), or (B, T, D) where frames have times of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kinolab.contracts.causal import Plan
from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Lists, Reach, ReachName
from kinolab.denoisers.base import (
    BaseDenoiserConfig,
    Conditions,
    DenoiserSpec,
    NullPromptDenoiser,
    run_blocks,
    told_frames,
)
from kinolab.errors import InputError
from kinolab.layers.attention import Attention, Beside, attend, attend_frames
from kinolab.layers.causal import CausalTurns, TextOfBlocks, causal_attention, causal_self_attention
from kinolab.layers.embeddings import (
    FixedTables,
    LabelEmbedder,
    TimestepEmbedder,
    apply_rotary,
    frame_positions,
    place_embedding,
    sincos_1d,
    sincos_2d,
    video_rotary_table,
)
from kinolab.layers.initialization import initialize_transformer
from kinolab.layers.masking import told_of
from kinolab.layers.modulation import AdaptiveParameters, FinalLayer, Mlp, gated_add, modulate
from kinolab.layers.null_prompt import NullPrompt
from kinolab.layers.patchify import PatchEmbed, unpatchify
from kinolab.layers.ports import ConditionPorts, FieldPort, check_port_names, named_ports
from kinolab.layers.sharing import SharedPlaces

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines, each (tokens, D / heads)."""


class MmditConfig(BaseDenoiserConfig):
    """MMDiT's fields; SD3 medium is hidden_size 1536, depth 24, num_heads 24."""

    # Rectified flow with logit-normal times, sampled with a shift of 3 (SD3, section 5.3.2, at 1024 px).
    published = {  # noqa: RUF012
        "diffusion": {"schedule": "flow", "prediction": "flow", "time_sampling": "logit_normal", "time_shift": 3.0}
    }

    kind: Literal["mmdit"] = "mmdit"
    hidden_size: int = Field(384, ge=4)
    """Width D of the tokens, a multiple of 4 and of num_heads (SD3: 64 per head)."""
    depth: int = Field(12, ge=1)
    """Number of blocks; the last one reads the text and does not update it."""
    num_heads: int = Field(6, ge=1)
    """Attention heads per block."""
    mlp_ratio: float = Field(4.0, gt=0)
    """Width of the MLPs' hidden layers in units of hidden_size."""
    in_channels: int = Field(4, ge=1)
    """Channels of the latents."""
    input_size: int | tuple[int, int] = 32
    """Height and width of the latents in training (one number: both)."""
    num_frames: int = Field(16, ge=1)
    """The most latent frames in training; 1 = an image model."""
    patch_size: int = Field(2, ge=1)
    """Side of a patch in latent pixels."""
    temporal_patch: Literal[1, 2] = 1
    """Frames per patch; with 2, the first of an odd number of frames is a patch by itself."""
    attention: Literal["2d", "3d", "2d+3d"] = "3d"
    """Within each frame; over all frames by the same weights; or within each frame and, by a second set of weights,
    over all frames."""
    reach: ReachName = "own"
    """Which frames the attention within frames reads (2d, 2d+3d): its own, or others, for one-shot tuning."""
    spatial_position: Literal["table", "learned", "rotary"] = "table"
    """A fixed sine-cosine table added to the tokens (SD3), the same table learned, or rotary attention over rows and
    columns; with temporal_position rotary the latter makes 3D rotary positions."""
    pos_embed_max_size: int | None = Field(None, ge=1)
    """Side in patches of the table, from whose centre any smaller grid is cut (SD3: 192); none = a table of the grid of
    input_size, interpolated for other sizes."""
    temporal_position: Literal["none", "sincos", "rotary"] = "rotary"
    """How tokens know their frame: not at all; a sine-cosine table that is zero at the first frame, times a learned
    factor per channel, added to the tokens; or rotary attention wherever frames attend to each other."""
    text_dim: int = Field(0, ge=0)
    """Width of a prompt's token states (SD3: 4096); 0 = no text stream."""
    pooled_dim: int = Field(0, ge=0)
    """Width of a pooled prompt embedding, added to the time's embedding (SD3: 2048); 0 = none."""
    num_classes: int = Field(0, ge=0)
    """Class labels 0 .. num_classes - 1; num_classes itself is the null class; 0 = no labels (SD3)."""
    qk_norm: bool = False
    """Normalise queries and keys per head by their root mean square (SD3.5)."""
    dual_attention_layers: tuple[int, ...] = ()
    """Blocks with a second attention of the image tokens alone (SD3.5 medium: 0 to 12)."""
    null: Literal["learned", "prompt"] = "learned"
    """The null condition's text and pooled embedding: learned, or those of the empty prompt, which
    `set_null_prompt` sets and which are zeros before that (public weights)."""
    null_tokens: int = Field(1, ge=1)
    """Text tokens of the null condition."""
    pooled_norm: bool = True
    """Bring pooled embeddings to unit mean square first, so that encoders of any scale fit (SD3: no)."""
    fps_condition: bool = False
    """Take the frame rate, embedded like the time; its last layer starts at zero, so that it changes nothing then."""
    given: Literal["none", "channels"] = "none"
    """How a part of the clip that is given is taken: not at all, or as further channels beside the noisy latents, its
    latents and what is to be generated of each (`VdtConfig.given`). Their weights start at zero."""
    mask_channels: int = Field(1, ge=1)
    """Channels R of the mask of what is given: the autoencoder's temporal ratio."""
    gradient_checkpointing: bool = False
    """Recompute each block in the backward pass: less memory for about a third more time."""
    vectors: dict[str, int] = Field(default_factory=dict)
    """More conditions that join the time's embedding, by name (`kinolab.conditioning`), and their widths; 0 = one
    number, such as noise_level: 0."""
    fields: dict[str, int] = Field(default_factory=dict)
    """More conditions that lie beside the latents, by name, and their channels, such as control: 4."""

    @model_validator(mode="after")
    def _check(self) -> MmditConfig:
        check_port_names(self.vectors, self.fields)
        width = self.hidden_size // self.num_heads
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            raise ValueError(
                f"hidden_size {self.hidden_size}: expected a multiple of num_heads {self.num_heads} and of 4"
            )
        if any(side % self.patch_size for side in self.latent_size):
            raise ValueError(f"input_size {self.input_size} must be a multiple of patch_size {self.patch_size}")
        if "rotary" in (self.spatial_position, self.temporal_position) and (width % 2 or width < 6):
            raise ValueError(f"rotary positions need an even hidden_size / num_heads of at least 6, got {width}")
        if self.attention == "2d" and self.temporal_position == "rotary":
            raise ValueError("temporal_position rotary is for attention over frames: use none or sincos with 2d")
        if self.attention == "3d" and self.reach != "own":
            raise ValueError(f"reach {self.reach}: with attention 3d every frame reads all frames: use 2d or 2d+3d")
        wrong = [i for i in self.dual_attention_layers if not 0 <= i < self.depth]
        if wrong:
            raise ValueError(f"dual_attention_layers {wrong}: expected blocks from 0 to {self.depth - 1}")
        if self.pos_embed_max_size is not None:
            if self.spatial_position == "rotary":
                raise ValueError("pos_embed_max_size is for a table: leave it out with spatial_position rotary")
            if self.pos_embed_max_size < max(self.latent_size) // self.patch_size:
                raise ValueError(f"pos_embed_max_size {self.pos_embed_max_size} is smaller than the grid of input_size")
        if (self.fields or self.given != "none") and self.temporal_patch == 2:
            raise ValueError("fields and given need temporal_patch 1: a pair of frames has no token of each")
        return self

    def token_frames(self, frames: int) -> int:
        """T: how many frames of tokens so many latent frames make."""
        return frames if self.temporal_patch == 1 else frames // 2 + frames % 2

    def single_frames(self, frames: int) -> int:
        """How many of them, the first ones, are single frames instead of pairs."""
        return frames if self.temporal_patch == 1 else frames % 2


@dataclass(frozen=True)
class Context:
    """What every block of one forward pass shares.

    sequences: F; allowed: (B * F, tokens + L), which tokens of a sequence and its text may be attended to, none = all;
    rotary: positions of a sequence's tokens, joint_rotary: the same with the text's after them, which are not turned;
    global_rotary: positions of all T * S tokens; lists: which frames each frame's tokens read, none = those of their
    sequence; text_allowed: (B, L), which text tokens are there, none = all; plan: what blocks of frames read where all
    frames are one sequence, and global_plan in the attention beside that of frames, none = everything, with `turns` the
    positions of that; text_frames: the frames (F,) whose conditions the texts of blocks have; text_beside: frames
    beside which text weighs as it does (`ForwardOptions`); shared: how processes share the places, none = they don't.
    """

    sequences: int
    allowed: Tensor | None
    rotary: Rotary | None
    joint_rotary: Rotary | None
    global_rotary: Rotary | None
    lists: Lists | None = None
    text_allowed: Tensor | None = None
    plan: Plan | None = None
    global_plan: Plan | None = None
    turns: CausalTurns | None = None
    text_frames: tuple[int, ...] | None = None
    text_beside: int | None = None
    shared: SharedPlaces | None = None


def projected(attention: Attention, x: Tensor, context: Context) -> tuple[Tensor, ...]:
    """(B, T, S, D) -> queries, keys and values, each (B, T, S, N, d); where places are shared, of x's to those of all
    places and this process's heads."""
    found = attention.project(x)
    return found if context.shared is None else context.shared.to_heads(*found)


def joint_attention(
    of_x: Attention, x: Tensor, of_text: Attention, text: Tensor, context: Context
) -> tuple[Tensor, Tensor]:
    """Attention over the tokens of each sequence and its text together (the paper's figure 2b).

    x (B, T, S, D), text (B, F, L, D) -> (B, T, S, D), and the text's heads (B, F, L, D), not projected.
    """
    if context.plan is not None:
        q, k, v = of_x.project(x)
        told = TextOfBlocks(*of_text.project(text), context.text_allowed)
        heads, of_texts = causal_attention(of_x, q, k, v, context.plan, context.turns, told)
        assert of_texts is not None
        return of_x.proj(heads), of_texts
    if context.lists is not None:
        return reaching_attention(of_x, x, of_text, text, context)
    shared = context.shared
    of_all = projected(of_x, x, context)
    # (B * F, S', N, d): F sequences of S' = T * S / F
    own = [a.reshape(len(x) * context.sequences, -1, *a.shape[3:]) for a in of_all]
    with_text: tuple[Tensor, ...] = of_text.project(text.flatten(0, 1))  # (B * F, L, N, d)
    if shared is not None:
        with_text = tuple(map(shared.own_heads, with_text))
    q, k, v = (torch.cat(pair, dim=1) for pair in zip(own, with_text, strict=True))
    # (B * F, S' + L, N * d)
    heads = attend(q, k, v, context.joint_rotary, context.allowed)
    tokens = own[0].shape[1]
    of_texts, heads = heads[:, tokens:].unflatten(0, text.shape[:2]), heads[:, :tokens]
    if shared is not None:
        of_texts, heads = shared.all_heads(of_texts), shared.to_places(heads.reshape(*of_all[0].shape[:3], -1))
    return of_x.proj(heads).view_as(x), of_texts


def reaching_attention(
    of_x: Attention, x: Tensor, of_text: Attention, text: Tensor, context: Context
) -> tuple[Tensor, Tensor]:
    """`joint_attention` of frames that read others' tokens: each of them beside its own text, which reads the same.

    Where a clip has one text (attention 3d), that text reads all frames.
    """
    lists, apart, shared = context.lists, context.sequences > 1, context.shared
    assert lists is not None
    q, k, v = projected(of_x, x, context)  # (B, T, S, N, d)
    q, k = turned(q, context), turned(k, context)
    text_q, text_k, text_v = of_text.project(text)  # (B, F, L, N, d)
    if shared is not None:
        text_q, text_k, text_v = map(shared.own_heads, (text_q, text_k, text_v))
    allowed = None if context.text_allowed is None else context.text_allowed[:, None].expand(-1, text.shape[1], -1)
    beside = Beside(text_k, text_v, allowed, context.text_beside)
    S = q.shape[2]
    if apart:
        heads, told = attend_frames(torch.cat([q, text_q], 2), k, v, lists, beside).tensor_split((S,), 2)
    else:
        # The tokens of all frames are one frame (B, 1, T * S, N, d), which the text reads as its own.
        keys, values = (a.flatten(1, 2)[:, None] for a in (k, v))
        told = attend_frames(text_q, keys, values, ((0,),), replace(beside, frames=None))
        heads = attend_frames(q, k, v, lists, beside)
    if shared is not None:
        heads, told = shared.to_places(heads), shared.all_heads(told)
    return of_x.proj(heads), told


def turned(a: Tensor, context: Context) -> Tensor:
    """Queries or keys (B, T, S, N, d) turned by their positions, in a frame or, where all frames are one sequence, in
    the clip."""
    if context.rotary is None:
        return a
    tables = context.rotary if context.sequences > 1 else tuple(r.unflatten(0, a.shape[1:3]) for r in context.rotary)
    cos, sin = (r[..., None, :] for r in tables)  # (S, 1, d) or (T, S, 1, d): broadcast over the heads
    return apply_rotary(a, cos, sin)


def frame_attention(attention: Attention, x: Tensor, context: Context) -> Tensor:
    """Attention of each frame's tokens over those that it reads, without text: (B, T, S, D) -> (B, T, S, D)."""
    if context.plan is not None:
        return causal_self_attention(attention, x, context.plan, context.turns)
    if context.lists is None:
        return self_attention(attention, x, context.sequences, context.rotary, context)
    q, k, v = projected(attention, x, context)
    heads = attend_frames(turned(q, context), turned(k, context), v, context.lists)
    return attention.proj(heads if context.shared is None else context.shared.to_places(heads))


def self_attention(attention: Attention, x: Tensor, sequences: int, rotary: Rotary | None, context: Context) -> Tensor:
    """Attention within each of `sequences` equal parts of a clip's tokens: (B, T, S, D) -> (B, T, S, D)."""
    if context.shared is None:
        return attention(x.reshape(len(x) * sequences, -1, x.shape[-1]), rotary).view_as(x)
    found = projected(attention, x, context)
    q, k, v = (a.reshape(len(x) * sequences, -1, *a.shape[3:]) for a in found)
    heads = attend(q, k, v, rotary).reshape(*found[0].shape[:3], -1)
    return attention.proj(context.shared.to_places(heads))


def of_frames(c: Tensor, frames: tuple[int, ...]) -> Tensor:
    """The conditions of some frames, (B, T, D) -> (B, F, D); those of all frames (B, 1, D) as they are."""
    return c if c.shape[1] == 1 else c[:, list(frames)]


class TextBlock(nn.Module):
    """The text's half of a block; the last block's is only read, so that it has neither projection nor MLP."""

    def __init__(self, config: MmditConfig, last: bool) -> None:
        super().__init__()
        D = config.hidden_size
        self.norm1 = nn.LayerNorm(D, eps=1e-6, elementwise_affine=False)
        self.attn = Attention(D, config.num_heads, config.qk_norm)
        self.adaLN_modulation = AdaptiveParameters(D, 2 if last else 6)
        self.last = last
        if last:
            del self.attn.proj
        else:
            self.norm2 = nn.LayerNorm(D, eps=1e-6, elementwise_affine=False)
            self.mlp = Mlp(D, int(D * config.mlp_ratio))

    def finish(self, text: Tensor, heads: Tensor, m: Tensor) -> Tensor:
        """Text tokens, their attention's heads (B, F, L, D) and modulation -> text tokens for the next block."""
        if self.last:
            return text
        text = gated_add(text, m[2], self.attn.proj(heads))
        return gated_add(text, m[5], self.mlp(modulate(self.norm2(text), m[3], m[4])))


class VideoBlock(nn.Module):
    """The video tokens' half of a block: its attentions and its MLP."""

    def __init__(self, config: MmditConfig, dual: bool) -> None:
        super().__init__()
        D, heads = config.hidden_size, config.num_heads
        self.dual, self.over_all = dual, config.attention == "2d+3d"
        self.norm1 = nn.LayerNorm(D, eps=1e-6, elementwise_affine=False)
        self.attn = Attention(D, heads, config.qk_norm)
        if dual:
            self.attn2 = Attention(D, heads, config.qk_norm)
        if self.over_all:
            self.attn_global = Attention(D, heads, config.qk_norm)
        self.norm2 = nn.LayerNorm(D, eps=1e-6, elementwise_affine=False)
        self.mlp = Mlp(D, int(D * config.mlp_ratio))
        self.adaLN_modulation = AdaptiveParameters(D, 9 if dual else 6)


class JointBlock(nn.Module):
    """One block: joint attention of video and text, then an MLP for each, all modulated and gated by the condition."""

    def __init__(self, config: MmditConfig, index: int) -> None:
        super().__init__()
        if config.text_dim:
            self.context_block = TextBlock(config, last=index == config.depth - 1)
        self.x_block = VideoBlock(config, dual=index in config.dual_attention_layers)

    def forward(self, x: Tensor, text: Tensor | None, c: Tensor, context: Context) -> tuple[Tensor, Tensor | None]:
        """Tokens x (B, T, S, D), text (B, F, L, D) or none, condition c (B, 1, D) -> both again."""
        video = self.x_block
        m, normed = video.adaLN_modulation(c), video.norm1(x)
        h = modulate(normed, m[0], m[1])
        if text is None:
            update = frame_attention(video.attn, h, context)
        else:
            of_text = self.context_block
            n = of_text.adaLN_modulation(c if context.text_frames is None else of_frames(c, context.text_frames))
            g = modulate(of_text.norm1(text), n[0], n[1])
            update, heads = joint_attention(video.attn, h, of_text.attn, g, context)
            text = of_text.finish(text, heads, n)
        if context.global_plan is not None:
            update = update + causal_self_attention(video.attn_global, h, context.global_plan, context.turns)
        elif video.over_all:
            update = update + self_attention(video.attn_global, h, 1, context.global_rotary, context)
        x = gated_add(x, m[2], update)
        if video.dual:
            h = modulate(normed, m[6], m[7])
            x = gated_add(x, m[8], frame_attention(video.attn2, h, context))
        return gated_add(x, m[5], video.mlp(modulate(video.norm2(x), m[3], m[4]))), text


class PooledProjection(nn.Module):
    """A pooled prompt embedding (B, P) -> (B, D) by a two-layer MLP."""

    def __init__(self, pooled_dim: int, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(pooled_dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, P) -> (B, D)."""
        return self.mlp(pooled)


class Mmdit(FixedTables, NullPromptDenoiser):
    """MMDiT for images and video; see `MmditConfig`. A condition that the model was built for and that is not given
    counts as null."""

    Config = MmditConfig
    block_lists = ("joint_blocks",)
    shares_places = True

    pos_embed: Tensor

    def __init__(self, config: MmditConfig) -> None:
        super().__init__()
        self.config = config
        D, C, p = config.hidden_size, config.in_channels, config.patch_size
        self.unlisted = Reach("all" if config.attention == "3d" else "own")
        self.reach = self.unlisted if config.reach == "own" else Reach(config.reach)
        self.balances_text = bool(config.text_dim)
        self.spec = DenoiserSpec(
            C,
            False,
            config.num_classes,
            config.text_dim,
            config.pooled_dim,
            config.given,
            config.mask_channels,
            config.fps_condition,
            more=named_ports(config.vectors, config.fields),
        )
        self.x_embedder = PatchEmbed(C, D, p)
        self.t_embedder = TimestepEmbedder(D)
        if config.num_classes:
            self.label_embedder = LabelEmbedder(config.num_classes, D)
        if config.pooled_dim:
            self.y_embedder = PooledProjection(config.pooled_dim, D)
        if config.text_dim:
            self.context_embedder = nn.Linear(config.text_dim, D)
        learned = config.null == "learned"
        self.null_prompt = NullPrompt(config.text_dim, config.pooled_dim, config.null_tokens, learned=learned)
        if config.fps_condition:
            self.fps_embedder = TimestepEmbedder(D)
        self.ports = ConditionPorts(config.vectors, config.fields, D, p)
        if config.given == "channels":
            self.given_port = FieldPort(C + config.mask_channels, D, p)
        self._add_blocks()
        if config.temporal_patch == 2:
            self.pair_embedder = PatchEmbed(C, D, p, 2)
            self.pair_linear = nn.Linear(D, 2 * p**2 * C)
        if config.temporal_position == "sincos":
            self.temporal_scale = nn.Parameter(torch.ones(D))
        h, w = (side // p for side in config.latent_size)
        self.grid, self.length = (h, w), config.token_frames(config.num_frames)
        if config.spatial_position != "rotary":
            self._add_table()
        self.reset_parameters()

    def _add_blocks(self) -> None:
        """The blocks and the layer behind them."""
        c = self.config
        self.joint_blocks = nn.ModuleList(JointBlock(c, i) for i in range(c.depth))
        self.final_layer = FinalLayer(c.hidden_size, c.patch_size**2 * c.in_channels, "block")

    def _add_table(self) -> None:
        """The table of places (1, rows * columns, D): that of the grid, spread over the side of a larger table."""
        M, base = self.config.pos_embed_max_size, max(self.grid)
        rows, columns = (torch.arange(n, dtype=torch.float64) for n in self.table_grid)
        scale = 1.0 if M is None else base / M
        table = sincos_2d(rows * scale, columns * scale, self.config.hidden_size)[None]
        if self.config.spatial_position == "learned":
            self.register_parameter("pos_embed", nn.Parameter(table))
        else:
            self.register_buffer("pos_embed", table)

    @property
    def table_grid(self) -> tuple[int, int]:
        """Rows and columns of the table of places."""
        M = self.config.pos_embed_max_size
        return self.grid if M is None else (M, M)

    def reset_parameters(self) -> None:
        """As the rest of the family: Xavier for linear layers, every block the identity, the output zero; and what a
        video model adds to an image model as `kinolab.denoisers.inflate` would make it."""
        initialize_transformer(self)
        for name in ("label_embedder", "fps_embedder", "y_embedder"):
            for parameter in getattr(self, name).parameters() if hasattr(self, name) else ():
                if parameter.ndim == 2:
                    nn.init.normal_(parameter, std=0.02)
        self.start_video_parameters()
        if self.config.temporal_position == "sincos":
            nn.init.ones_(self.temporal_scale)

    @torch.no_grad()
    def start_video_parameters(self) -> None:
        """Give what models time the values with which it changes nothing, from the parameters of the image model.

        Global attention: a copy of the frame's own with its output projection zero. Pairs: embedded as the mean of two
        frames and told apart by nothing, so that a still clip gives the image's answer. Temporal table and frame rate:
        zero.
        """
        for block in self.joint_blocks:
            half: Any = block.x_block
            if half.over_all:
                half.attn_global.load_state_dict(half.attn.state_dict())
                nn.init.zeros_(half.attn_global.proj.weight)
                nn.init.zeros_(half.attn_global.proj.bias)
        if self.config.temporal_patch == 2:
            patches, pairs, head = self.x_embedder.proj, self.pair_embedder.proj, self.final_layer.linear
            # (D, C, p, p) -> (D, C, 2, p, p)
            pairs.weight.copy_((patches.weight / 2)[:, :, None].expand_as(pairs.weight))
            # (2 p p C, D): the frame outermost, as `unpatchify` reads it
            self.pair_linear.weight.copy_(head.weight.repeat(2, 1))
            self.pair_linear.bias.copy_(head.bias.repeat(2))
            assert pairs.bias is not None and patches.bias is not None
            pairs.bias.copy_(patches.bias)
        if self.config.temporal_position == "sincos":
            nn.init.zeros_(self.temporal_scale)
        if self.config.fps_condition:
            last: Any = self.fps_embedder.mlp[-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def token_frames(self, frames: int) -> int:
        """Pairs make one frame of tokens of two."""
        return self.config.token_frames(frames)

    @property
    def partly_used(self) -> bool:
        """With pairs of frames: images have no pair, and clips of an even length no single frame."""
        return self.config.temporal_patch == 2

    def models_time(self, name: str) -> bool:
        """Global attention, pairs of frames, the temporal table's factors and the frame rate."""
        mine = ("attn_global.", "pair_embedder.", "pair_linear.", "temporal_scale", "fps_embedder.")
        return any(part in name for part in mine)

    def check_causal(self) -> None:
        """Raises InputError for pairs of frames, and where nothing goes over time."""
        if self.config.temporal_patch == 2:
            raise InputError("pairs of frames (temporal_patch 2) have no block-causal form: use temporal_patch 1")
        if self.config.attention == "2d":
            raise InputError("with attention 2d no frame reads another, and there is no past to read: use 3d or 2d+3d")
        if self.reach != self.unlisted:
            raise InputError(f"reach {self.config.reach}: its frames read others than their own: leave reach out")

    def forward(self, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None = None) -> Tensor:
        """z (B, C, T, H, W), t (B,), or (B, T) with a block-causal reach, conditions -> prediction (B, C, T, H, W).

        Raises:
            InputError: where a shape is wrong or a condition is given that the model was not built for.
        """
        plan = self.plan(z.shape[2], options)
        self.check_inputs(z, t, conditions, framewise=plan is not None)
        x, text, c, context = self.prepared(z, t, conditions, options)
        shared = self.shared(x.shape[2], plan)
        added, context = self.residuals(options, shared), replace(context, shared=shared)
        x = run_blocks(
            x, options, lambda x: self._blocks(x, text, c, context, added), lambda x: self._modulated(x, c), shared
        )
        p = self.config.patch_size
        return self._output(x, c, z.shape[2], (z.shape[3] // p, z.shape[4] // p))

    def prepared(
        self, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None
    ) -> tuple[Tensor, Tensor | None, Tensor, Context]:
        """What the blocks begin with: tokens (B, T, S, D), text (B, F, L, D) or none, condition (B, 1, D), context.

        Raises:
            InputError: for sides that are no multiples of the patch, or larger than the table of places.
        """
        p = self.config.patch_size
        if z.shape[3] % p or z.shape[4] % p:
            raise InputError(f"expected latents with sides in multiples of {p}, got {z.shape[3]} x {z.shape[4]}")
        grid = (z.shape[3] // p, z.shape[4] // p)
        plan = self.plan(z.shape[2], options)
        if plan is None:
            times = self._times(self.config.token_frames(z.shape[2]))
        else:  # the table that is added to the tokens rolls
            times = torch.tensor(plan.places(self.length), dtype=torch.float64)
        # Both residual streams keep their float32 under autocast.
        x = self.ports.add_fields(self._embed(z), conditions)
        if self.config.given != "none":
            told = told_of(z, conditions.given, conditions.mask, self.config.mask_channels)
            x = x + self.given_port(torch.cat(told, dim=1), None)
        x = x.to(z.dtype) + self._positions(grid, times)
        c = told_frames(t, conditions, self._condition)
        text, mask = self._prompt(conditions, len(t))
        context = replace(
            self._context(x, text, mask, times, grid),
            lists=self.reach_lists(x.shape[1], options),
            text_allowed=mask,
            text_beside=None if options is None else options.text_beside,
        )
        if plan is not None:
            context = self._causal(context, plan, grid)
        if text is not None:
            texts = context.sequences if context.text_frames is None else len(context.text_frames)
            text = text[:, None].expand(-1, texts, -1, -1)  # (B, F, L, D)
        return x, text, c, context

    def _blocks(
        self, x: Tensor, text: Tensor | None, c: Tensor, context: Context, added: Mapping[int, Tensor]
    ) -> Tensor:
        for i, block in enumerate(self.joint_blocks):
            if self.config.gradient_checkpointing and torch.is_grad_enabled():
                x, text = checkpoint(block, x, text, c, context, use_reentrant=False)
            else:
                x, text = block(x, text, c, context)
            if i in added:
                x = x + added[i]
        return x

    def _modulated(self, x: Tensor, c: Tensor) -> Tensor:
        """What the first block's attention is given."""
        first: Any = self.joint_blocks[0]
        shift, scale, *_ = first.x_block.adaLN_modulation(c)
        return modulate(first.x_block.norm1(x), shift, scale)

    def _embed(self, z: Tensor) -> Tensor:
        """Latents (B, C, frames, H, W) -> tokens (B, T, S, D)."""
        single, frames = self.config.single_frames(z.shape[2]), z.shape[2]
        parts = [self.x_embedder(z[:, :, :single])] if single else []
        parts += [self.pair_embedder(z[:, :, single:])] if single < frames else []
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _output(self, x: Tensor, c: Tensor, frames: int, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, T, S, D) -> prediction (B, C, frames, H, W)."""
        h, p, single = self.final_layer.modulated(x, c), self.config.patch_size, self.config.single_frames(frames)
        parts = [unpatchify(self.final_layer.linear(h[:, :single]), grid, p)] if single else []
        parts += [unpatchify(self.pair_linear(h[:, single:]), grid, p, 2)] if single < frames else []
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def _times(self, frames: int) -> Tensor:
        """Positions in time (T,) of the frames of tokens, from 0; only clips longer than in training are squeezed."""
        if frames <= self.length or self.config.temporal_position == "none":  # an image model has none to squeeze
            return torch.arange(frames, dtype=torch.float64)
        return frame_positions(frames, self.length, self.config.temporal_patch)

    def _causal(self, context: Context, plan: Plan, grid: tuple[int, int]) -> Context:
        """The context of a causal clip: with what blocks read, the positions of that, and a text for each block."""
        whole, turns = self.config.attention == "3d", None
        if "rotary" in (self.config.temporal_position, self.config.spatial_position):

            def table(times: tuple[int, ...]) -> Rotary:
                made = self._rotary(torch.tensor(times, dtype=torch.float64), grid, still=False)
                assert made is not None
                return made

            turns = CausalTurns(table, self.length)
        if not whole:
            return replace(context, global_plan=plan, turns=turns)
        return replace(context, plan=plan, turns=turns, text_frames=tuple(block.own[0] for block in plan.blocks))

    def _positions(self, grid: tuple[int, int], times: Tensor) -> Tensor:
        """What is added to the tokens to tell their places and frames: (1, 1 or T, S or 1, D), or zero."""
        positions = torch.zeros((), device=self.x_embedder.proj.weight.device)
        if self.config.spatial_position != "rotary":
            positions = positions + self._places(grid)[:, None]
        if self.config.temporal_position == "sincos":
            D = self.config.hidden_size
            table = (sincos_1d(times, D) - sincos_1d(times[:1] * 0, D)).to(positions.device)  # (T, D), zero at time 0
            positions = positions + (table * self.temporal_scale)[:, None]
        return positions

    def _places(self, grid: tuple[int, int]) -> Tensor:
        """The embedding (1, S, D) of a grid of tokens, cut from the centre of the table."""
        (h, w), (rows, columns) = grid, self.table_grid
        whole = self.config.pos_embed_max_size is None and self.config.spatial_position == "table"
        if whole or grid == self.table_grid:
            return place_embedding(self.pos_embed, self.table_grid, grid, self.config.patch_size)
        if h > rows or w > columns:
            p = self.config.patch_size
            raise InputError(f"expected latents of at most {rows * p} x {columns * p}, got {h * p} x {w * p}")
        top, left = (rows - h) // 2, (columns - w) // 2
        return self.pos_embed.unflatten(1, (rows, columns))[:, top : top + h, left : left + w].flatten(1, 2)

    def _rotary(self, times: Tensor, grid: tuple[int, int], still: bool = True) -> Rotary | None:
        """Rotary positions of the tokens of frames at `times`, none where they would turn nothing; a single frame is
        taken to be at time 0 where it may be `still`.

        Of a head's pairs rows and columns take 3/8 each and time the rest, all of them where a table tells the places.
        """
        config = self.config
        pairs = config.hidden_size // config.num_heads // 2
        space = 3 * pairs // 8 if config.spatial_position == "rotary" else 0
        time = pairs - 2 * space if config.temporal_position == "rotary" else 0
        if not space and (not time or (still and len(times) == 1)):
            return None
        cos, sin = video_rotary_table(times, grid, time, space, 2 * pairs)
        device = self.x_embedder.proj.weight.device
        return cos.to(device), sin.to(device)

    def _context(
        self, x: Tensor, text: Tensor | None, mask: Tensor | None, times: Tensor, grid: tuple[int, int]
    ) -> Context:
        _, T, S, _ = x.shape
        apart = self.config.attention != "3d"
        sequences, tokens = (T, S) if apart else (1, T * S)
        whole = self._rotary(times, grid)
        # Within a frame all tokens have the same time, which must not turn them against the text.
        own = self._rotary(times[:1] * 0, grid) if apart else whole
        joint = own
        if own is not None and text is not None:
            still = own[0].new_zeros(text.shape[1], own[0].shape[1])  # (L, d): text is not turned, cosine 1 and sine 0
            joint = torch.cat([own[0], still + 1]), torch.cat([own[1], still])
        allowed = None
        if mask is not None:
            # (B * F, tokens + L): the image's tokens stand in front
            allowed = F.pad(mask, (tokens, 0), value=True).repeat_interleave(sequences, dim=0)
        return Context(sequences, allowed, own, joint, whole)

    def _condition(self, t: Tensor, conditions: Conditions) -> Tensor:
        """Embedding (B, 1, D) of time, pooled prompt, class, frame rate and other vectors."""
        c = self.ports.add_vectors(self.t_embedder(t), conditions)
        if self.config.pooled_dim:
            pooled = conditions.pooled
            if pooled is not None and self.config.pooled_norm:
                pooled = F.rms_norm(pooled, pooled.shape[-1:])
            c = c + self.y_embedder(self.null_prompt.fill_pooled(pooled, conditions.null_of("pooled"), len(t)))
        if self.config.num_classes:
            label = conditions.label
            if label is None:
                label = torch.full(t.shape, self.spec.unlabelled, device=t.device)
            c = c + self.label_embedder(label, conditions.null_of("label"))
        if conditions.fps is not None:
            c = c + self.fps_embedder(conditions.fps) * (conditions.fps > 0)[:, None]
        return c[:, None]

    def _prompt(self, conditions: Conditions, batch: int) -> tuple[Tensor | None, Tensor | None]:
        """Tokens (B, L, D) of the prompt and which of them are there (B, L), none = all."""
        if not self.config.text_dim:
            return None, None
        states, mask = self.null_prompt.fill_text(
            conditions.text, conditions.text_mask, conditions.null_of("text"), batch
        )
        return self.context_embedder(states).to(states.dtype), mask
