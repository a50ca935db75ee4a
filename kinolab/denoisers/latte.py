"""Latte: Latent Diffusion Transformer for Video Generation (Ma et al., 2024, arXiv:2401.03048).

Latents are cut into tokens that keep their two axes, time and space, apart from first to last; attention runs along
one axis at a time. Parameter names follow the public checkpoints. All four variants of the paper stand side by side
here, which makes the file longer than most.

Shapes: B batch, C channels, T frames (after tubelets), S tokens per frame, D width. Tokens are (B, T, S, D),
conditions (B, 1 or T, D).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kinolab.contracts.causal import Plan
from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Lists, Reach, ReachName
from kinolab.denoisers.base import BaseDenoiserConfig, Conditions, Denoiser, DenoiserSpec, run_blocks, told_frames
from kinolab.errors import InputError
from kinolab.layers.attention import (
    Attention,
    CrossAttention,
    attend,
    attend_places,
    spatial_attention,
    temporal_attention,
)
from kinolab.layers.causal import CausalTurns, causal_attention, causal_temporal_attention
from kinolab.layers.embeddings import (
    FixedTables,
    LabelEmbedder,
    PooledEmbedder,
    TextEmbedder,
    TimestepEmbedder,
    frame_positions,
    place_embedding,
    rotary_table,
    sincos_1d,
    sincos_2d,
)
from kinolab.layers.initialization import initialize_transformer
from kinolab.layers.modulation import AdaptiveParameters, FinalLayer, Mlp, gated_add, modulate
from kinolab.layers.patchify import PatchEmbed, unpatchify
from kinolab.layers.ports import ConditionPorts, check_port_names, named_ports
from kinolab.layers.sharing import SharedPlaces

SIZES: dict[str, dict[str, int]] = {
    "S": {"hidden_size": 384, "depth": 12, "num_heads": 6},
    "B": {"hidden_size": 768, "depth": 12, "num_heads": 12},
    "L": {"hidden_size": 1024, "depth": 24, "num_heads": 16},
    "XL": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
}
Role = Literal["spatial", "temporal", "joint", "split"]
"""Along which axes a block's attention runs: one of them, one after the other, or half of the heads along each."""


class LatteConfig(BaseDenoiserConfig):
    """Latte's fields; `size` fills in hidden_size, depth and num_heads where they are not given."""

    sizes = SIZES

    kind: Literal["latte"] = "latte"
    size: Literal["S", "B", "L", "XL"] | None = None
    """Preset of the paper; explicit values of hidden_size, depth and num_heads win over it."""
    hidden_size: int = Field(384, ge=4)
    """Width D of the tokens, a multiple of 4 and of num_heads."""
    depth: int = Field(12, ge=1)
    """Number of blocks; half of them are spatial and half temporal in the variants interleaved and late_fusion."""
    num_heads: int = Field(6, ge=1)
    """Attention heads per block."""
    mlp_ratio: float = Field(4.0, gt=0)
    """Width of the MLP's hidden layer in units of hidden_size."""
    variant: Literal["interleaved", "late_fusion", "joint_block", "split_heads"] = "interleaved"
    """Where time is modelled: in every second block; in the second half of the blocks; in a second attention inside
    each block; in half of the heads of each block (the paper's variants 1 to 4)."""
    in_channels: int = Field(4, ge=1)
    """Channels of the latents."""
    input_size: int | tuple[int, int] = 32
    """Height and width of the latents in training (one number: both)."""
    num_frames: int = Field(16, ge=1)
    """Latent frames in training."""
    patch_size: int = Field(2, ge=1)
    """Side of a patch in latent pixels."""
    patch_embedding: Literal["uniform", "compression"] = "uniform"
    """Tokens of single frames, or of tubelets of temporal_patch frames."""
    temporal_patch: int = Field(1, ge=1)
    """Frames per tubelet: 1 for uniform, 2 or more for compression."""
    injection: Literal["adaln", "all_tokens"] = "adaln"
    """How time and class come in: adaptive LayerNorm in every block, or as tokens of every frame."""
    adaln: Literal["block", "single"] = "block"
    """Each block has its own modulation layer, or all share one and own a table of offsets (PixArt-alpha)."""
    temporal_position: Literal["absolute", "rotary"] = "absolute"
    """Position of a frame: a fixed table added once before the first temporal attention, or rotary attention."""
    num_classes: int = Field(0, ge=0)
    """Class labels 0 .. num_classes - 1; num_classes itself is the null class; 0 = no labels."""
    text_dim: int = Field(0, ge=0)
    """Width of a prompt's token states, read by cross-attention in blocks that model space; 0 = none."""
    pooled_dim: int = Field(0, ge=0)
    """Width of a pooled prompt embedding, added to the time's embedding; 0 = none."""
    learned_variance: bool = False
    """Predict 2C channels: the second half interpolates the log variance (as the public checkpoints do)."""
    qk_norm: bool = False
    """Normalise queries and keys per head."""
    reach: ReachName = "own"
    """Which frames the spatial attention of a frame reads: its own, or others that tell of it, for one-shot tuning."""
    gradient_checkpointing: bool = False
    """Recompute each block in the backward pass: less memory for about a third more time."""
    vectors: dict[str, int] = Field(default_factory=dict)
    """More conditions that join the time's embedding, by name (`kinolab.conditioning`), and their widths; 0 = one
    number, such as noise_level: 0."""
    fields: dict[str, int] = Field(default_factory=dict)
    """More conditions that lie beside the latents, by name, and their channels, such as control: 4."""

    @model_validator(mode="after")
    def _check(self) -> LatteConfig:
        check_port_names(self.vectors, self.fields)
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            raise ValueError(
                f"hidden_size {self.hidden_size}: expected a multiple of num_heads {self.num_heads} and of 4"
            )
        if self.variant in ("interleaved", "late_fusion") and self.depth % 2:
            raise ValueError(f"variant {self.variant} needs an even depth, got {self.depth}")
        if self.variant == "split_heads" and self.num_heads % 2:
            raise ValueError(f"variant split_heads needs an even number of heads, got {self.num_heads}")
        if (self.patch_embedding == "uniform") != (self.temporal_patch == 1):
            raise ValueError(
                "temporal_patch must be 1 with patch_embedding uniform and at least 2 with compression, "
                f"got {self.temporal_patch} with {self.patch_embedding}"
            )
        if self.num_frames % self.temporal_patch:
            raise ValueError(f"num_frames {self.num_frames} must be a multiple of temporal_patch {self.temporal_patch}")
        if any(side % self.patch_size for side in self.latent_size):
            raise ValueError(f"input_size {self.input_size} must be a multiple of patch_size {self.patch_size}")
        if self.temporal_position == "rotary" and self.hidden_size // self.num_heads % 2:
            raise ValueError("rotary positions need an even hidden_size / num_heads")
        return self

    @property
    def roles(self) -> list[Role]:
        """What each block models, first to last."""
        pair: list[Role] = ["spatial", "temporal"]
        if self.variant == "interleaved":
            return pair * (self.depth // 2)
        if self.variant == "late_fusion":
            return [role for role in pair for _ in range(self.depth // 2)]
        return ["joint" if self.variant == "joint_block" else "split"] * self.depth


@dataclass(frozen=True)
class Context:
    """What every block of one forward pass shares.

    text: (B, L, D) prompt tokens, or (B, 1 + image_frames, L, D) with a prompt for each image; text_mask: the same
    without D; rotary: (cos, sin), each (T, d); image_frames: how many of the last frames are single images; lists:
    which frames each frame's attention in space reads, none = its own; plan: which frames blocks read in time, none =
    all, with `turns` the positions of these; shared: how processes share the places, none = they don't.
    """

    text: Tensor | None
    text_mask: Tensor | None
    rotary: tuple[Tensor, Tensor] | None
    image_frames: int
    lists: Lists | None = None
    plan: Plan | None = None
    turns: CausalTurns | None = None
    shared: SharedPlaces | None = None


def over_time(attention: Attention, x: Tensor, context: Context) -> Tensor:
    """Attention over the frames at each place: (B, T, S, D) -> (B, T, S, D)."""
    if context.plan is not None:
        return causal_temporal_attention(attention, x, context.plan, context.turns)
    return temporal_attention(attention, x, context.rotary)


def split_frames(x: Tensor, image_frames: int) -> tuple[Tensor, Tensor]:
    """Tokens (B, T, S, D) -> those of the video and those of the single images after it."""
    video = x.shape[1] - image_frames
    return x[:, :video], x[:, video:]


def split_attention(attention: Attention, x: Tensor, context: Context) -> Tensor:
    """Half of the heads attend within frames, the other half over frames: (B, T, S, D) -> (B, T, S, D).

    The paper adds the outputs of the two halves, each projected to the full width; that is one projection of both
    halves side by side. Over a single image, attention in time returns its values.
    """
    B, T, S, _ = x.shape
    half, images = attention.num_heads // 2, context.image_frames
    q, k, v = attention.project(x)  # (B, T, S, N, d) each
    q_s, k_s, v_s = (a[..., :half, :] for a in (q, k, v))
    # (B, T', S, N / 2, d) -> (B * S, T', N / 2, d): every place is a sequence of the T' frames of the video
    q_t, k_t, v_t = (a[:, : T - images, :, half:].transpose(1, 2).flatten(0, 1) for a in (q, k, v))
    within = attend_places(q_s, k_s, v_s, context.lists, context.shared)
    if context.plan is None:
        over = attend(q_t, k_t, v_t, context.rotary)
    else:
        # (B * S, T, 1, N / 2, d): every place is a clip of one token per frame
        q_t, k_t, v_t = (a[:, :, None] for a in (q_t, k_t, v_t))
        over = causal_attention(attention, q_t, k_t, v_t, context.plan, context.turns, None)[0].squeeze(2)
    over = over.unflatten(0, (B, S)).transpose(1, 2)  # (B, T', S, D / 2)
    if images:
        # A softmax over one key is 1.
        over = torch.cat([over, v[:, T - images :, :, half:].flatten(-2)], dim=1)
    return attention.proj(torch.cat([within, over], dim=-1))


def cross_attention(attention: CrossAttention, x: Tensor, context: Context) -> Tensor:
    """All tokens (B, T, S, D) of a sample read its prompt; with a prompt per image, the images' tokens read theirs."""
    text, mask = context.text, context.text_mask
    assert text is not None and mask is not None
    if text.ndim == 3:
        return attention(x.flatten(1, 2), text, mask).view_as(x)
    video, images = split_frames(x, context.image_frames)
    of_video = attention(video.flatten(1, 2), text[:, 0], mask[:, 0]).view_as(video)
    of_images = attention(images.flatten(0, 1), text[:, 1:].flatten(0, 1), mask[:, 1:].flatten(0, 1)).view_as(images)
    return torch.cat([of_video, of_images], dim=1)


class LatteBlock(nn.Module):
    """One transformer block: attention (one or two), cross-attention to a prompt where space is modelled, MLP.

    adaLN-Zero: x + gate * f(norm(x) * (1 + scale) + shift); without modulation (injection all_tokens) the norms are
    affine and the block is a plain pre-norm one.
    """

    def __init__(self, config: LatteConfig, role: Role) -> None:
        super().__init__()
        D, heads, adaptive = config.hidden_size, config.num_heads, config.injection == "adaln"
        self.role = role
        self.norm1 = nn.LayerNorm(D, eps=1e-6, elementwise_affine=not adaptive)
        self.attn = Attention(D, heads, config.qk_norm)
        if config.text_dim and role != "temporal":
            self.cross_attn = CrossAttention(D, heads, config.qk_norm)
        if role == "joint":
            self.norm_temp = nn.LayerNorm(D, eps=1e-6, elementwise_affine=not adaptive)
            self.attn_temp = Attention(D, heads, config.qk_norm)
        self.norm2 = nn.LayerNorm(D, eps=1e-6, elementwise_affine=not adaptive)
        self.mlp = Mlp(D, int(D * config.mlp_ratio))
        count = 9 if role == "joint" else 6
        if adaptive and config.adaln == "block":
            self.adaLN_modulation = AdaptiveParameters(D, count)
        elif adaptive:
            self.scale_shift_table = nn.Parameter(torch.zeros(count, D))

    def modulate(self, c: Tensor, shared: Tensor | None) -> Tensor | None:
        """Shift, scale and gate of attention, MLP and (joint) temporal attention: (6 or 9, B, 1 or T, 1, D), or None.

        c (B, 1 or T, D) is the condition, `shared` the modulation that all blocks share where they have no own layer.
        """
        if shared is not None:
            return shared + self.scale_shift_table[:, None, None, None]  # (6 or 9, B, 1 or T, 1, D)
        return self.adaLN_modulation(c) if hasattr(self, "adaLN_modulation") else None

    def forward(self, x: Tensor, c: Tensor, shared: Tensor | None, context: Context) -> Tensor:
        """Tokens x (B, T, S, D) -> (B, T, S, D); c and shared as in `modulate`. Temporal blocks pass single images."""
        m = self.modulate(c, shared)
        if self.role == "temporal" and context.image_frames:
            video, images = split_frames(x, context.image_frames)
            if not video.shape[1]:
                return x
            m = None if m is None else m[:, :, : video.shape[1]]
            return torch.cat([self._run(video, m, context), images], dim=1)
        return self._run(x, m, context)

    def _run(self, x: Tensor, m: Tensor | None, context: Context) -> Tensor:
        parts = [None] * 9 if m is None else list(m.unbind(0))
        h = _norm(self.norm1, x, parts[0], parts[1])
        if self.role == "temporal":
            h = over_time(self.attn, h, context)
        elif self.role == "split":
            h = split_attention(self.attn, h, context)
        else:
            h = spatial_attention(self.attn, h, context.lists, context.shared)
        x = _add(x, parts[2], h)
        if context.text is not None and self.role != "temporal":
            x = x + cross_attention(self.cross_attn, x, context)
        if self.role == "joint":
            x = self._joint_temporal(x, parts[6:], context)
        h = self.mlp(_norm(self.norm2, x, parts[3], parts[4]))
        return _add(x, parts[5], h)

    def _joint_temporal(self, x: Tensor, parts: list[Any], context: Context) -> Tensor:
        video, images = split_frames(x, context.image_frames)
        if not video.shape[1]:
            return x
        shift, scale, gate = (p if p is None else p[:, : video.shape[1]] for p in parts)
        h = over_time(self.attn_temp, _norm(self.norm_temp, video, shift, scale), context)
        video = _add(video, gate, h)
        return torch.cat([video, images], dim=1) if context.image_frames else video


def _norm(norm: nn.LayerNorm, x: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
    return norm(x) if shift is None or scale is None else modulate(norm(x), shift, scale)


def _add(x: Tensor, gate: Tensor | None, update: Tensor) -> Tensor:
    return x + update if gate is None else gated_add(x, gate, update)


class Latte(FixedTables, Denoiser):
    """Latte of any variant; see `LatteConfig`.

    A condition that the model was built for and that is not given counts as null. In joint image-video training the
    last frames, `image_frames` of the conditions, are single images: nothing flows between them and the video or each
    other. Their labels and prompts may differ from the video's: then label is (B, 1 + image_frames), pooled and text
    likewise have 1 + image_frames in their second place.
    """

    Config = LatteConfig

    y_embedder: LabelEmbedder
    pooled_embedder: PooledEmbedder
    text_embedder: TextEmbedder
    t_block: AdaptiveParameters
    pos_embed: Tensor
    temp_embed: Tensor
    unlisted = Reach("own")
    shares_places = True

    def __init__(self, config: LatteConfig) -> None:
        super().__init__()
        self.config, self.reach = config, Reach(config.reach)
        D, C = config.hidden_size, config.in_channels
        self.spec = DenoiserSpec(
            C,
            config.learned_variance,
            config.num_classes,
            config.text_dim,
            config.pooled_dim,
            joint_images=True,
            more=named_ports(config.vectors, config.fields),
        )
        self.x_embedder = PatchEmbed(C, D, config.patch_size, config.temporal_patch)
        self.t_embedder = TimestepEmbedder(D)
        if config.num_classes:
            self.y_embedder = LabelEmbedder(config.num_classes, D)
        if config.pooled_dim:
            self.pooled_embedder = PooledEmbedder(config.pooled_dim, D)
        if config.text_dim:
            self.text_embedder = TextEmbedder(config.text_dim, D)
        self.ports = ConditionPorts(config.vectors, config.fields, D, config.patch_size, config.temporal_patch)
        self.modulation: Literal["block", "single", "none"] = config.adaln if config.injection == "adaln" else "none"
        if self.modulation == "single":
            self.t_block = AdaptiveParameters(D, 9 if config.variant == "joint_block" else 6)
        self.blocks = nn.ModuleList(LatteBlock(config, role) for role in config.roles)
        channels = C * (2 if config.learned_variance else 1)
        self.final_layer = FinalLayer(D, config.temporal_patch * config.patch_size**2 * channels, self.modulation)
        h, w = (side // config.patch_size for side in config.latent_size)
        self.grid, self.length = (h, w), config.num_frames // config.temporal_patch
        self.register_buffer("pos_embed", sincos_2d(torch.arange(h), torch.arange(w), D)[None])
        if config.temporal_position == "absolute":
            self.register_buffer("temp_embed", sincos_1d(torch.arange(self.length), D)[None])
        roles = config.roles
        self.first_temporal = roles.index("temporal") if "temporal" in roles else 0
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """DiT's initialisation: Xavier for linear layers, every block the identity, the output zero."""
        initialize_transformer(self)

    def check_causal(self) -> None:
        """Raises InputError for tubelets."""
        if self.config.temporal_patch > 1:
            raise InputError("tubelets (temporal_patch above 1) have no block-causal form: use temporal_patch 1")

    def forward(self, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None = None) -> Tensor:
        """z (B, C, T, H, W), t (B,), or (B, T) with a block-causal reach, conditions -> prediction (B, C or 2C, T, H,
        W).

        Raises:
            InputError: where a shape is wrong or a condition is given that the model was not built for.
        """
        plan = self.plan(z.shape[2], options)
        self.check_inputs(z, t, conditions, framewise=plan is not None)
        image_frames = conditions.image_frames
        if plan is not None and image_frames:
            raise InputError("single images beside a clip are no part of a stream: leave image_frames 0")
        self._check_frames(z, image_frames)
        p = self.config.patch_size
        grid = (z.shape[3] // p, z.shape[4] // p)
        x = self.ports.add_fields(self.x_embedder(z), conditions)
        frames, places = x.shape[1:3]
        # The tables keep their float32 under autocast, and so the residual stream: in bfloat16 it loses 1.5% by itself.
        x = x + place_embedding(self.pos_embed, self.grid, grid, self.config.patch_size)
        parts = self._condition_parts(t, conditions, frames, image_frames)
        c = sum(parts[1:], parts[0])
        shared = self.t_block(c) if self.modulation == "single" else None
        if self.modulation == "none":
            tokens = torch.stack([part.expand(-1, frames, -1) for part in parts], dim=2)  # (B, T, parts, D)
            x = torch.cat([x, tokens.to(x.dtype)], dim=2)  # (B, T, S + parts, D)
        lists = self.reach_lists(frames, options)
        context = replace(
            self._context(conditions, len(t), frames, image_frames, lists, plan), shared=self.shared(x.shape[2], plan)
        )
        added = self.residuals(options, context.shared)
        x = run_blocks(
            x, options, lambda x: self._blocks(x, c, shared, context, added), lambda x: self._modulated(x, c, shared),
            context.shared,
        )  # fmt: skip
        x = self.final_layer(x[:, :, :places], c)  # without the condition's tokens
        return unpatchify(x, grid, p, self.config.temporal_patch)

    def _blocks(
        self, x: Tensor, c: Tensor, shared: Tensor | None, context: Context, added: Mapping[int, Tensor]
    ) -> Tensor:
        for i, block in enumerate(self.blocks):
            if i == self.first_temporal and self.config.temporal_position == "absolute":
                x = self._add_frame_embedding(x, context)
            if self.config.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, c, shared, context, use_reentrant=False)
            else:
                x = block(x, c, shared, context)
            if i in added:
                x = x + added[i]
        return x

    def _modulated(self, x: Tensor, c: Tensor, shared: Tensor | None) -> Tensor:
        """What the first block's attention is given; without modulation the time is a token among them."""
        first: Any = self.blocks[0]
        m = first.modulate(c, shared)
        return first.norm1(x) if m is None else modulate(first.norm1(x), m[0], m[1])

    def token_frames(self, frames: int) -> int:
        """Tubelets make one frame of tokens of several."""
        return frames // self.config.temporal_patch

    def models_time(self, name: str) -> bool:
        """Temporal blocks, and the temporal attention of joint blocks; its modulation is in a layer with the rest."""
        parts = name.split(".")
        if parts[0] != "blocks":
            return False
        return self.config.roles[int(parts[1])] == "temporal" or parts[2] in ("attn_temp", "norm_temp")

    def _check_frames(self, z: Tensor, image_frames: int) -> None:
        T, H, W = z.shape[2:]
        p, pt = self.config.patch_size, self.config.temporal_patch
        if H % p or W % p:
            raise InputError(f"expected latents with height and width in multiples of {p}, got {H} x {W}")
        if T % pt:
            raise InputError(f"expected a multiple of {pt} latent frames (tubelets of {pt}), got {T}")
        if not 0 <= image_frames <= T:
            raise InputError(f"expected image_frames from 0 to {T} (the number of frames), got {image_frames}")
        if image_frames and pt > 1:
            raise InputError("single images need patch_embedding uniform: a tubelet would mix them with other frames")

    def _condition_parts(self, t: Tensor, conditions: Conditions, frames: int, images: int) -> list[Tensor]:
        """Embeddings of time and other vectors, label, pooled prompt: (B, 1, D), or (B, T, D) where frames differ."""
        B = t.shape[0]
        parts = [told_frames(t, conditions, lambda t, c: self.ports.add_vectors(self.t_embedder(t), c)[:, None])]
        if self.config.num_classes:
            label, null = conditions.label, conditions.null_of("label")
            if label is None:
                label = torch.full((B,), self.spec.unlabelled, device=t.device)
            parts.append(_per_frame(self.y_embedder(label, _fit(null, label.ndim)), label.ndim, frames, images))
        if self.config.pooled_dim:
            pooled, null = conditions.pooled, conditions.null_of("pooled")
            if pooled is None:
                pooled, null = self.pooled_embedder.null.expand(B, -1), t.new_ones(B, dtype=torch.bool)
            rank = pooled.ndim - 1
            parts.append(_per_frame(self.pooled_embedder(pooled, _fit(null, rank)), rank, frames, images))
        return parts

    def _context(
        self,
        conditions: Conditions,
        batch: int,
        frames: int,
        image_frames: int,
        lists: Lists | None,
        plan: Plan | None,
    ) -> Context:
        """Prompt tokens and rotary tables for the blocks."""
        text = mask = rotary = None
        if self.config.text_dim:
            text, mask, null = conditions.text, conditions.text_mask, conditions.null_of("text")
            if text is None:
                text, mask, null = self.text_embedder.null.expand(batch, 1, -1), None, None
            text, mask = self.text_embedder(text, mask, _fit(null, text.ndim - 2))
        if plan is not None:
            return Context(text, mask, None, 0, None, plan, self._turns())
        if self.config.temporal_position == "rotary":
            positions = frame_positions(frames - image_frames, self.length, self.config.temporal_patch)
            cos, sin = rotary_table(positions, self.config.hidden_size // self.config.num_heads)
            rotary = (cos.to(self.pos_embed.device), sin.to(self.pos_embed.device))
        if lists is not None and image_frames:
            raise InputError("reach: single images beside a clip read their own tokens alone: leave it out")
        return Context(text, mask, rotary, image_frames, lists)

    def _turns(self) -> CausalTurns | None:
        """Rotary positions of the frames that blocks of a stream read, where there are some."""
        if self.config.temporal_position != "rotary":
            return None

        def table(times: tuple[int, ...]) -> tuple[Tensor, Tensor]:
            positions = torch.tensor(times, dtype=torch.float64, device=self.pos_embed.device)
            return rotary_table(positions, self.config.hidden_size // self.config.num_heads)

        return CausalTurns(table, self.length)

    def _add_frame_embedding(self, x: Tensor, context: Context) -> Tensor:
        """Add the table of frame positions to the video's tokens (B, T, S, D); single images have no position, and
        those of a stream roll through the table."""
        image_frames = context.image_frames
        if context.plan is not None:
            return x + self.temp_embed[:, list(context.plan.places(self.length)), None]
        video, images = split_frames(x, image_frames)
        if video.shape[1] == self.length:
            table = self.temp_embed
        else:
            table = sincos_1d(
                frame_positions(video.shape[1], self.length, self.config.temporal_patch), self.config.hidden_size
            )[None].to(x.device)
        video = video + table[:, :, None]  # (1, T, 1, D): alike at all places
        return torch.cat([video, images], dim=1) if image_frames else video


def _fit(null: Tensor | None, rank: int) -> Tensor | None:
    """`null` (B,) shaped to broadcast against per-sample (rank 1) or per-frame (rank 2) conditions."""
    return null if null is None or rank == 1 else null[:, None]


def _per_frame(e: Tensor, rank: int, frames: int, image_frames: int) -> Tensor:
    """(B, D) -> (B, 1, D); (B, 1 + image_frames, D), rank 2 -> (B, T, D): the video's row for each of its frames."""
    if rank == 1:
        return e[:, None]
    return torch.cat([e[:, :1].expand(-1, frames - image_frames, -1), e[:, 1:]], dim=1)
