"""VDT: General-purpose Video Diffusion Transformers via Mask Modeling (Lu et al., 2023, arXiv:2305.13311).

Every block models time, then space: attention over the frames at each place, attention within each frame, and an MLP.
(`temporal_attention: joint`, not of the paper, has one attention over all tokens of the clip instead.)
Time and class modulate the spatial attention and the MLP (adaLN-Zero); the temporal attention has an affine norm of
its own and a linear layer after it. Parameter names follow the public checkpoints.

A part of the video may be given (section 3.3): `VdtConfig.given` says how the model takes it. The mask is told per
latent, so that any frames, any places and any number of them can be given.

Shapes: B batch, C channels, T frames, S tokens per frame, D width, R mask channels. Tokens are (B, T, S, D), conditions
(B, 1, D), or (B, S, D) where they differ between places, or (B, T, D) where frames have times of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kinolab.contracts.causal import Plan
from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Lists, Reach
from kinolab.denoisers.base import BaseDenoiserConfig, Conditions, Denoiser, DenoiserSpec, run_blocks, told_frames
from kinolab.errors import InputError
from kinolab.layers.attention import Attention, CrossAttention, joint_attention, spatial_attention, temporal_attention
from kinolab.layers.causal import CausalTurns, causal_self_attention, causal_temporal_attention
from kinolab.layers.embeddings import (
    FixedTables,
    LabelEmbedder,
    PooledEmbedder,
    TextEmbedder,
    TimestepEmbedder,
    frame_positions,
    place_embedding,
    sincos_1d,
    sincos_2d,
    spread_positions,
    video_rotary_table,
)
from kinolab.layers.initialization import initialize_transformer
from kinolab.layers.masking import Given, partly_given, place_given, told_of
from kinolab.layers.modulation import AdaptiveParameters, FinalLayer, Mlp, gated_add, modulate
from kinolab.layers.patchify import PatchEmbed, patchify, unpatchify
from kinolab.layers.ports import ConditionPorts, check_port_names, named_ports
from kinolab.layers.sharing import SharedPlaces

SIZES: dict[str, dict[str, int]] = {
    "S": {"hidden_size": 384, "depth": 12, "num_heads": 6},
    "B": {"hidden_size": 768, "depth": 12, "num_heads": 12},
    "L": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
    "XL": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
}
"""S and L as released; L has the shape that DiT and Latte call XL, so both names give it."""


class VdtConfig(BaseDenoiserConfig):
    """VDT's fields; `size` fills in hidden_size, depth and num_heads where they are not given."""

    sizes = SIZES

    kind: Literal["vdt"] = "vdt"
    size: Literal["S", "B", "L", "XL"] | None = None
    """Preset; explicit values of hidden_size, depth and num_heads win over it."""
    hidden_size: int = Field(384, ge=4)
    """Width D of the tokens, a multiple of 4 and of num_heads."""
    depth: int = Field(12, ge=1)
    """Number of blocks."""
    num_heads: int = Field(6, ge=1)
    """Attention heads of each attention."""
    mlp_ratio: float = Field(4.0, gt=0)
    """Width of the MLP's hidden layer in units of hidden_size."""
    temporal_attention: Literal["first", "last", "joint"] = "first"
    """Whether a block models time before space, as published, or after it (ablation); or `joint`: both in one
    attention, in which every token of the clip reads every other, turned by rotary positions in time, row and column.
    It finds an object of the given frames wherever it has moved to."""
    qk_norm: bool = False
    """Normalise queries and keys of each head (RMSNorm)."""
    adaln: Literal["block", "single"] = "block"
    """Modulation computed by each block, or once for all blocks plus a table of each (PixArt-alpha, section 2.3), which
    saves a quarter of the parameters."""
    in_channels: int = Field(4, ge=1)
    """Channels of the latents."""
    input_size: int | tuple[int, int] = 32
    """Height and width of the latents in training (one number: both)."""
    num_frames: int = Field(16, ge=1)
    """Latent frames in training."""
    patch_size: int = Field(2, ge=1)
    """Side of a patch in latent pixels."""
    num_classes: int = Field(0, ge=0)
    """Class labels 0 .. num_classes - 1; num_classes itself is the null class; 0 = no labels."""
    text_dim: int = Field(0, ge=0)
    """Width of a prompt's token states, read by cross-attention after the spatial attention; 0 = none."""
    pooled_dim: int = Field(0, ge=0)
    """Width of a pooled prompt embedding, added to the time's embedding; 0 = none."""
    given: Given = "none"
    """How the given part is taken. The paper's three: `adaln` (its mean over time shifts and scales each place),
    `cross_attention` (its tokens as keys and values), `tokens` (its tokens as more frames of the same attention, the
    paper's choice); these see only latents of which nothing is left to generate as given at the model's input, where
    they become zero. `mask`: the paper's unified input, given latents in the place of noisy ones. `channels`: given
    latents and mask as further channels of the input beside the noise, as later systems do; it alone is told of
    latents that are given in part."""
    mask_channels: int = Field(1, ge=1)
    """Channels R of the mask: the autoencoder's temporal ratio."""
    learned_variance: bool = False
    """Predict 2C channels: the second half interpolates the log variance (as the public checkpoints do)."""
    gradient_checkpointing: bool = False
    """Recompute each block in the backward pass: less memory for about a third more time."""
    vectors: dict[str, int] = Field(default_factory=dict)
    """More conditions that join the time's embedding, by name (`kinolab.conditioning`), and their widths; 0 = one
    number, such as noise_level: 0."""
    fields: dict[str, int] = Field(default_factory=dict)
    """More conditions that lie beside the latents, by name, and their channels, such as control: 4."""

    @model_validator(mode="after")
    def _check(self) -> VdtConfig:
        check_port_names(self.vectors, self.fields)
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            raise ValueError(
                f"hidden_size {self.hidden_size}: expected a multiple of num_heads {self.num_heads} and of 4"
            )
        if self.temporal_attention == "joint" and (self.hidden_size // self.num_heads) % 16:
            raise ValueError(
                f"temporal_attention joint: time, rows and columns share the width of a head: expected "
                f"hidden_size / num_heads in multiples of 16, got {self.hidden_size} / {self.num_heads}"
            )
        if any(side % self.patch_size for side in self.latent_size):
            raise ValueError(f"input_size {self.input_size} must be a multiple of patch_size {self.patch_size}")
        return self


class Context(NamedTuple):
    """What every block is told beside time: tokens (B, L, D) to attend to, their masks (B, L), which tokens of the
    sequence itself (B, T, S) may be attended to in time, which frames each frame reads in space, none = as trained, and
    of joint attention the positions (T * S, d); or what blocks of frames read, and the positions of that. framewise:
    whether conditions are those of frames, not of places. shared: how processes share the places, none = they don't."""

    text: Tensor | None = None
    text_mask: Tensor | None = None
    given: Tensor | None = None
    given_mask: Tensor | None = None
    visible: Tensor | None = None
    lists: Lists | None = None
    rotary: tuple[Tensor, Tensor] | None = None
    plan: Plan | None = None
    turns: CausalTurns | None = None
    framewise: bool = False
    shared: SharedPlaces | None = None


class VdtBlock(nn.Module):
    """Attention in time, attention in space, cross-attention to a prompt (if there is one), MLP."""

    def __init__(self, config: VdtConfig) -> None:
        super().__init__()
        D, heads = config.hidden_size, config.num_heads
        self.time = config.temporal_attention
        if self.time != "joint":
            self.temporal_norm1 = nn.LayerNorm(D)
            self.temporal_attn = Attention(D, heads, config.qk_norm)
            self.temporal_fc = nn.Linear(D, D)
        self.norm1 = nn.LayerNorm(D, eps=1e-6, elementwise_affine=False)
        self.attn = Attention(D, heads, config.qk_norm)
        if config.given == "cross_attention":
            self.given_attn = CrossAttention(D, heads, config.qk_norm)
        if config.text_dim:
            self.cross_attn = CrossAttention(D, heads, config.qk_norm)
        self.norm2 = nn.LayerNorm(D, eps=1e-6, elementwise_affine=False)
        self.mlp = Mlp(D, int(D * config.mlp_ratio))
        self.single = config.adaln == "single"
        if self.single:
            self.scale_shift_table = nn.Parameter(torch.zeros(6, D))
        else:
            self.adaLN_modulation = AdaptiveParameters(D, 6)

    def forward(self, x: Tensor, c: Tensor, context: Context) -> Tensor:
        """Tokens x (B, T, S, D), condition c (B, 1 or S, D), or modulation (6, B, 1 or S, 1, D) -> (B, T, S, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c, context.framewise)
        if self.time == "first":
            x = self._over_time(x, context)
        x = gated_add(x, gate1, self._over_space(modulate(self.norm1(x), shift1, scale1), context))
        if self.time == "last":
            x = self._over_time(x, context)
        if context.given is not None:
            x = x + self.given_attn(x.flatten(1, 2), context.given, context.given_mask).view_as(x)
        if context.text is not None:
            x = x + self.cross_attn(x.flatten(1, 2), context.text, context.text_mask).view_as(x)
        return gated_add(x, gate2, self.mlp(modulate(self.norm2(x), shift2, scale2)))

    def modulation(self, c: Tensor, framewise: bool = False) -> Tensor:
        """Shift, scale and gate of spatial attention and MLP, (6, B, 1, 1 or S, D), or (6, B, T, 1, D); c as in
        `forward`, of places or, `framewise`, of frames."""
        shared = c + self.scale_shift_table[:, None, None, None] if self.single else self.adaLN_modulation(c)
        # A condition per place goes to the places instead of the frames: (6, B, S, 1, D) -> (6, B, 1, S, D).
        return shared if framewise else shared.transpose(2, 3)

    def _over_space(self, x: Tensor, context: Context) -> Tensor:
        if self.time == "joint" and context.plan is not None:
            return causal_self_attention(self.attn, x, context.plan, context.turns)
        if self.time != "joint":
            return spatial_attention(self.attn, x, context.lists, context.shared)
        assert context.rotary is not None
        return joint_attention(self.attn, x, context.rotary, context.visible, context.lists, context.shared)

    def _over_time(self, x: Tensor, context: Context) -> Tensor:
        normed = self.temporal_norm1(x)
        if context.plan is not None:
            attended = causal_temporal_attention(self.temporal_attn, normed, context.plan)
        else:
            attended = temporal_attention(self.temporal_attn, normed, None, context.visible)
        return x + self.temporal_fc(attended)


class Vdt(FixedTables, Denoiser):
    """VDT; see `VdtConfig`. A condition that the model was built for and that is not given counts as null.

    With a single class and no prompt, as in the released models, a label that is not given means that class.
    """

    Config = VdtConfig
    shares_places = True

    y_embedder: LabelEmbedder
    pooled_embedder: PooledEmbedder
    text_embedder: TextEmbedder
    pos_embed: Tensor
    time_embed: Tensor

    def __init__(self, config: VdtConfig) -> None:
        super().__init__()
        self.config = config
        self.joint = config.temporal_attention == "joint"
        self.reach = Reach("all" if self.joint else "own")
        D, C = config.hidden_size, config.in_channels
        self.spec = DenoiserSpec(
            C,
            config.learned_variance,
            config.num_classes,
            config.text_dim,
            config.pooled_dim,
            config.given,
            config.mask_channels,
            more=named_ports(config.vectors, config.fields),
        )
        told = C + config.mask_channels
        self.x_embedder = PatchEmbed(C + told if config.given == "channels" else C, D, config.patch_size)
        if config.given in ("adaln", "cross_attention", "tokens"):
            self.given_embedder = PatchEmbed(told, D, config.patch_size)
        if config.given == "cross_attention":
            self.nothing_given = nn.Parameter(torch.zeros(D))
        self.t_embedder = TimestepEmbedder(D)
        if config.num_classes:
            self.y_embedder = LabelEmbedder(config.num_classes, D)
        if config.pooled_dim:
            self.pooled_embedder = PooledEmbedder(config.pooled_dim, D)
        if config.text_dim:
            self.text_embedder = TextEmbedder(config.text_dim, D)
        self.ports = ConditionPorts(config.vectors, config.fields, D, config.patch_size)
        self.blocks = nn.ModuleList(VdtBlock(config) for _ in range(config.depth))
        channels = C * (2 if config.learned_variance else 1)
        self.final_layer = FinalLayer(D, config.patch_size**2 * channels, config.adaln)
        if config.adaln == "single":
            self.t_block = AdaptiveParameters(D, 6)
        h, w = (side // config.patch_size for side in config.latent_size)
        self.grid = (h, w)
        self.register_buffer("pos_embed", sincos_2d(torch.arange(h), torch.arange(w), D)[None])
        self.register_buffer("time_embed", sincos_1d(torch.arange(config.num_frames), D)[None])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As published: Xavier for linear layers, spatial attention and MLP gated off, the output zero.

        Attention in time is not gated, so that a fresh block is not the identity.
        """
        initialize_transformer(self)

    def check_causal(self) -> None:
        """Raises InputError where the given part is told of the whole clip at once."""
        if self.config.given in ("adaln", "cross_attention", "tokens"):
            raise InputError(
                f"given: {self.config.given} tells every frame what is given of later ones, so that there is no "
                "block-causal form: use channels or mask"
            )

    def forward(self, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None = None) -> Tensor:
        """z (B, C, T, H, W), t (B,), or (B, T) with a block-causal reach, conditions -> prediction (B, C or 2C, T, H,
        W).

        Raises:
            InputError: where a shape is wrong or a condition is given that the model was not built for.
        """
        plan = self.plan(z.shape[2], options)
        self.check_inputs(z, t, conditions, framewise=plan is not None)
        p, frames = self.config.patch_size, z.shape[2]
        if z.shape[3] % p or z.shape[4] % p:
            raise InputError(f"expected latents with sides in multiples of {p}, got {z.shape[3]} x {z.shape[4]}")
        grid = (z.shape[3] // p, z.shape[4] // p)
        given, mask = told_of(z, conditions.given, conditions.mask, self.config.mask_channels)
        # The tables keep their float32 under autocast, and so the residual stream.
        positions = place_embedding(self.pos_embed, self.grid, grid, p) + self._frame_embedding(frames, plan)
        x = self.ports.add_fields(self.x_embedder(self._input(z, given, mask)), conditions) + positions
        c, context = (
            told_frames(t, conditions, self._condition),
            Context(*self._prompt(conditions, z.shape[0]))._replace(lists=self.reach_lists(frames, options)),
        )
        x, told, context = self._tell(x, c, context, positions, given, mask)
        if plan is not None:
            context = context._replace(plan=plan, turns=self._turns(grid, x.device), framewise=t.ndim == 2)
        elif self.joint:
            context = context._replace(rotary=self._rotary(frames, x.shape[1], grid, x.device))
        if self.config.adaln == "single":
            told = self.t_block(told)
        shared = self.shared(x.shape[2], plan)
        added, (mine, context) = self.residuals(options, shared), self._share(told, context, shared)
        x = run_blocks(
            x, options, lambda x: self._blocks(x, mine, context, added), lambda x: self._modulated(x, told), shared
        )
        return unpatchify(self.final_layer(x[:, :frames], c), grid, p)

    def _share(self, told: Tensor, context: Context, shared: SharedPlaces | None) -> tuple[Tensor, Context]:
        """What the blocks of this process are told of its places, where they are shared."""
        if shared is None:
            return told, context
        dim = 2 if self.config.adaln == "single" else 1  # (6, B, 1 or S, 1, D) or (B, 1 or S, D)
        told = told if told.shape[dim] == 1 else shared.own(told, dim)
        visible = context.visible
        if visible is not None and not self.joint:  # attention in time reads its own places, joint attention all
            visible = shared.own(visible)
        return told, context._replace(visible=visible, shared=shared)

    def _blocks(self, x: Tensor, told: Tensor, context: Context, added: Mapping[int, Tensor]) -> Tensor:
        for i, block in enumerate(self.blocks):
            if self.config.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, told, context, use_reentrant=False)
            else:
                x = block(x, told, context)
            if i in added:
                x = x + added[i]
        return x

    def _modulated(self, x: Tensor, told: Tensor) -> Tensor:
        """What the first block's spatial attention would be given if there were none in time before it."""
        first: Any = self.blocks[0]
        shift, scale, *_ = first.modulation(told)
        return modulate(first.norm1(x), shift, scale)

    def models_time(self, name: str) -> bool:
        """The temporal attention of every block, its norm and the linear layer after it."""
        return ".temporal_" in name

    def _input(self, z: Tensor, given: Tensor, mask: Tensor) -> Tensor:
        """The latents that become tokens (B, C or 2C + R, T, H, W)."""
        if self.config.given == "channels":
            return torch.cat([z, given, mask], 1)
        if self.config.given == "mask":
            return place_given(z, given, mask)
        if self.config.given != "none":
            return place_given(z, torch.zeros_like(z), mask)
        return z

    def _tell(
        self, x: Tensor, c: Tensor, context: Context, positions: Tensor, given: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Context]:
        """Hand the given part to the blocks: tokens, condition and context with it, by `adaln` and its kin."""
        how = self.config.given
        if how not in ("adaln", "cross_attention", "tokens"):
            return x, c, context
        tokens = self.given_embedder(torch.cat([given, mask], 1)) + positions
        # A token counts where anything of its patch is given.
        there = patchify(partly_given(mask).to(x.dtype), self.config.patch_size).amax(-1) > 0  # (B, T, S)
        if how == "adaln":
            count = there.sum(1).clamp(min=1)[..., None]  # (B, S, 1): frames in which a place is given
            return x, c + (tokens * there[..., None]).sum(1) / count, context
        if how == "cross_attention":
            nothing = self.nothing_given.expand(x.shape[0], 1, -1)
            # (B, 1 + T * S, D): the first can be read where nothing is given, as a softmax needs a key.
            keys = torch.cat([nothing, tokens.flatten(1, 2)], 1)
            allowed = torch.cat([torch.ones_like(there[:, 0, :1]), there.flatten(1)], 1)
            return x, c, context._replace(given=keys, given_mask=allowed)
        visible = torch.cat([torch.ones_like(there), there], 1)
        lists = context.lists
        if lists is not None:  # the given frames read one another as the noisy ones do
            lists += tuple(tuple(frame + len(lists) for frame in read) for read in lists)
        return torch.cat([x, tokens], 1), c, context._replace(visible=visible, lists=lists)

    def _frame_embedding(self, frames: int, plan: Plan | None = None) -> Tensor:
        """Position embedding (T, 1, D) of the frames; those of a stream roll through the table."""
        if plan is not None:
            return self.time_embed[0, list(plan.places(self.config.num_frames)), None]
        if frames == self.config.num_frames:
            return self.time_embed[0, :, None]
        positions = frame_positions(frames, self.config.num_frames)
        return sincos_1d(positions, self.config.hidden_size)[:, None].to(self.time_embed)

    def _rotary(self, frames: int, sequence: int, grid: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Positions (T * S, d) of joint attention: a quarter of each head's pairs turn with time, three eighths each
        with row and column. Given tokens behind the frames (a sequence of 2T) stand where their frames do."""
        config = self.config
        times = spread_positions(frames, config.num_frames if frames > config.num_frames else frames).to(device)
        cos, sin = (table.repeat(sequence // frames, 1) for table in self._rotary_at(times, grid))
        return cos, sin

    def _rotary_at(self, times: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Positions (T * S, d) of joint attention of frames at these times."""
        width = self.config.hidden_size // self.config.num_heads
        space = 3 * (width // 2) // 8
        return video_rotary_table(times, grid, width // 2 - 2 * space, space, width)

    def _turns(self, grid: tuple[int, int], device: torch.device) -> CausalTurns | None:
        """The same of what blocks of a stream read; of attention in time alone there are none."""
        if not self.joint:
            return None

        def table(times: tuple[int, ...]) -> tuple[Tensor, Tensor]:
            return self._rotary_at(torch.tensor(times, dtype=torch.float64, device=device), grid)

        return CausalTurns(table, self.config.num_frames)

    def _condition(self, t: Tensor, conditions: Conditions) -> Tensor:
        """Embedding (B, 1, D) of time, class, pooled prompt and other vectors."""
        c = self.ports.add_vectors(self.t_embedder(t), conditions)
        if self.config.num_classes:
            label = conditions.label
            if label is None:
                label = torch.full(t.shape, self.spec.unlabelled, device=t.device)
            c = c + self.y_embedder(label, conditions.null_of("label"))
        if self.config.pooled_dim:
            pooled, null = conditions.pooled, conditions.null_of("pooled")
            if pooled is None:
                pooled, null = self.pooled_embedder.null.expand(len(t), -1), torch.ones_like(t, dtype=torch.bool)
            c = c + self.pooled_embedder(pooled, null)
        return c[:, None]

    def _prompt(self, conditions: Conditions, batch: int) -> tuple[Tensor | None, Tensor | None]:
        """Tokens (B, L, D) of the prompt and their mask (B, L)."""
        if not self.config.text_dim:
            return None, None
        text, mask, null = conditions.text, conditions.text_mask, conditions.null_of("text")
        if text is None:
            text, mask, null = self.text_embedder.null.expand(batch, 1, -1), None, None
        tokens, allowed = self.text_embedder(text, mask, null)
        return tokens, allowed
