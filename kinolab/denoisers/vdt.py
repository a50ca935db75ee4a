"""VDT: General-purpose Video Diffusion Transformers via Mask Modeling (Lu et al., 2023, arXiv:2305.13311).

Every block models time, then space: attention over the frames at each place, attention within each frame, and an MLP.
Time and class modulate the spatial attention and the MLP (adaLN-Zero); the temporal attention has an affine norm of
its own and a linear layer after it. Parameter names follow the public checkpoints.

Shapes: B batch, C channels, T frames, S tokens per frame, D width. Tokens are (B, T, S, D), conditions (B, 1, D).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kinolab.config import Config
from kinolab.denoisers.base import Conditions, Denoiser, DenoiserSpec
from kinolab.errors import InputError
from kinolab.layers.attention import Attention, CrossAttention, spatial_attention, temporal_attention
from kinolab.layers.embeddings import (
    LabelEmbedder,
    PooledEmbedder,
    TextEmbedder,
    TimestepEmbedder,
    frame_positions,
    place_embedding,
    sincos_1d,
    sincos_2d,
)
from kinolab.layers.initialization import initialize_transformer
from kinolab.layers.modulation import AdaptiveParameters, FinalLayer, Mlp, gated_add, modulate
from kinolab.layers.patchify import PatchEmbed, unpatchify

SIZES: dict[str, dict[str, int]] = {
    "S": {"hidden_size": 384, "depth": 12, "num_heads": 6},
    "B": {"hidden_size": 768, "depth": 12, "num_heads": 12},
    "L": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
    "XL": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
}
"""S and L as released; L has the shape that DiT and Latte call XL, so both names give it."""


class VdtConfig(Config):
    """VDT's fields; `size` fills in hidden_size, depth and num_heads where they are not given."""

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
    temporal_attention: Literal["first", "last"] = "first"
    """Whether a block models time before space, as published, or after it (ablation)."""
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
    learned_variance: bool = False
    """Predict 2C channels: the second half interpolates the log variance (as the public checkpoints do)."""
    gradient_checkpointing: bool = False
    """Recompute each block in the backward pass: less memory for about a third more time."""

    @model_validator(mode="before")
    @classmethod
    def _fill_size(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("size") in SIZES:
            return {**SIZES[values["size"]], **values}
        return values

    @model_validator(mode="after")
    def _check(self) -> VdtConfig:
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            raise ValueError(
                f"hidden_size {self.hidden_size}: expected a multiple of num_heads {self.num_heads} and of 4"
            )
        if any(side % self.patch_size for side in self.latent_size):
            raise ValueError(f"input_size {self.input_size} must be a multiple of patch_size {self.patch_size}")
        return self

    @property
    def latent_size(self) -> tuple[int, int]:
        """(height, width) of the latents in training."""
        return self.input_size if isinstance(self.input_size, tuple) else (self.input_size, self.input_size)


class VdtBlock(nn.Module):
    """Attention in time, attention in space, cross-attention to a prompt (if there is one), MLP."""

    def __init__(self, config: VdtConfig) -> None:
        super().__init__()
        D, heads = config.hidden_size, config.num_heads
        self.time_first = config.temporal_attention == "first"
        self.temporal_norm1 = nn.LayerNorm(D)
        self.temporal_attn = Attention(D, heads)
        self.temporal_fc = nn.Linear(D, D)
        self.norm1 = nn.LayerNorm(D, eps=1e-6, elementwise_affine=False)
        self.attn = Attention(D, heads)
        if config.text_dim:
            self.cross_attn = CrossAttention(D, heads)
        self.norm2 = nn.LayerNorm(D, eps=1e-6, elementwise_affine=False)
        self.mlp = Mlp(D, int(D * config.mlp_ratio))
        self.adaLN_modulation = AdaptiveParameters(D, 6)

    def forward(self, x: Tensor, c: Tensor, text: Tensor | None, mask: Tensor | None) -> Tensor:
        """Tokens x (B, T, S, D), condition c (B, 1, D), prompt text (B, L, D) and mask (B, L) -> (B, T, S, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c)
        if self.time_first:
            x = self._over_time(x)
        x = gated_add(x, gate1, spatial_attention(self.attn, modulate(self.norm1(x), shift1, scale1)))
        if not self.time_first:
            x = self._over_time(x)
        if text is not None:
            x = x + self.cross_attn(x.flatten(1, 2), text, mask).view_as(x)
        return gated_add(x, gate2, self.mlp(modulate(self.norm2(x), shift2, scale2)))

    def _over_time(self, x: Tensor) -> Tensor:
        return x + self.temporal_fc(temporal_attention(self.temporal_attn, self.temporal_norm1(x), None))


class Vdt(Denoiser):
    """VDT; see `VdtConfig`. A condition that the model was built for and that is not given counts as null.

    With a single class and no prompt, as in the released models, a label that is not given means that class.
    """

    y_embedder: LabelEmbedder
    pooled_embedder: PooledEmbedder
    text_embedder: TextEmbedder
    pos_embed: Tensor
    time_embed: Tensor

    def __init__(self, config: VdtConfig) -> None:
        super().__init__()
        self.config = config
        D, C = config.hidden_size, config.in_channels
        self.spec = DenoiserSpec(C, config.learned_variance, config.num_classes, config.text_dim, config.pooled_dim)
        self.x_embedder = PatchEmbed(C, D, config.patch_size)
        self.t_embedder = TimestepEmbedder(D)
        if config.num_classes:
            self.y_embedder = LabelEmbedder(config.num_classes, D)
        if config.pooled_dim:
            self.pooled_embedder = PooledEmbedder(config.pooled_dim, D)
        if config.text_dim:
            self.text_embedder = TextEmbedder(config.text_dim, D)
        self.blocks = nn.ModuleList(VdtBlock(config) for _ in range(config.depth))
        channels = C * (2 if config.learned_variance else 1)
        self.final_layer = FinalLayer(D, config.patch_size**2 * channels, "block")
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

    def forward(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """z (B, C, T, H, W), t (B,), conditions -> prediction (B, C or 2C, T, H, W).

        Raises:
            InputError: where a shape is wrong or a condition is given that the model was not built for.
        """
        self.check_inputs(z, t, conditions)
        p, frames = self.config.patch_size, z.shape[2]
        if z.shape[3] % p or z.shape[4] % p:
            raise InputError(f"expected latents with sides in multiples of {p}, got {z.shape[3]} x {z.shape[4]}")
        grid = (z.shape[3] // p, z.shape[4] // p)
        x = self.x_embedder(z)
        # The tables keep their float32 under autocast, and so the residual stream.
        x = x + place_embedding(self.pos_embed, self.grid, grid, p) + self._frame_embedding(frames)
        c = self._condition(t, conditions)
        text, mask = self._prompt(conditions, z.shape[0])
        for block in self.blocks:
            if self.config.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, c, text, mask, use_reentrant=False)
            else:
                x = block(x, c, text, mask)
        return unpatchify(self.final_layer(x, c), grid, p)

    def _frame_embedding(self, frames: int) -> Tensor:
        """Position embedding (T, 1, D) of the frames."""
        if frames == self.config.num_frames:
            return self.time_embed[0, :, None]
        positions = frame_positions(frames, self.config.num_frames)
        return sincos_1d(positions, self.config.hidden_size)[:, None].to(self.time_embed)

    def _condition(self, t: Tensor, conditions: Conditions) -> Tensor:
        """Embedding (B, 1, D) of time, class and pooled prompt."""
        c, null = self.t_embedder(t), conditions.null
        if self.config.num_classes:
            label = conditions.label
            if label is None:
                label = torch.full(t.shape, self.spec.unlabelled, device=t.device)
            c = c + self.y_embedder(label, null)
        if self.config.pooled_dim:
            pooled = conditions.pooled
            if pooled is None:
                pooled, null = self.pooled_embedder.null.expand(len(t), -1), torch.ones_like(t, dtype=torch.bool)
            c = c + self.pooled_embedder(pooled, null)
        return c[:, None]

    def _prompt(self, conditions: Conditions, batch: int) -> tuple[Tensor | None, Tensor | None]:
        """Tokens (B, L, D) of the prompt and their mask (B, L)."""
        if not self.config.text_dim:
            return None, None
        text, mask, null = conditions.text, conditions.text_mask, conditions.null
        if text is None:
            text, mask, null = self.text_embedder.null.expand(batch, 1, -1), None, None
        tokens, allowed = self.text_embedder(text, mask, null)
        return tokens, allowed

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Fixed tables may be absent from a checkpoint: they are what this config makes them."""
        for name, table in self.named_buffers(recurse=False):
            state_dict.setdefault(prefix + name, table)
        super()._load_from_state_dict(state_dict, prefix, *args)
