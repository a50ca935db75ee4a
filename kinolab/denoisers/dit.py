"""DiT: Scalable Diffusion Models with Transformers (Peebles & Xie, 2022, arXiv:2212.09748), on every frame by itself.

The image model whose weights initialise Latte's spatial blocks. A clip is a batch of images that share time and
class; nothing flows between frames. Parameter names follow the public checkpoints.

Shapes: B batch, C channels, T frames, S tokens per frame, D width. Tokens are (B, T, S, D).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Lists, Reach
from kinolab.denoisers.base import BaseDenoiserConfig, Conditions, Denoiser, DenoiserSpec, run_blocks
from kinolab.errors import InputError
from kinolab.layers.attention import Attention, spatial_attention
from kinolab.layers.embeddings import LabelEmbedder, TimestepEmbedder, place_embedding, sincos_2d
from kinolab.layers.initialization import initialize_transformer
from kinolab.layers.modulation import AdaptiveParameters, Mlp, gated_add, modulate
from kinolab.layers.patchify import PatchEmbed, unpatchify
from kinolab.layers.ports import ConditionPorts, check_port_names, named_ports


class DiTConfig(BaseDenoiserConfig):
    """DiT's fields; the defaults are size S with patches of 2."""

    kind: Literal["dit"] = "dit"
    hidden_size: int = Field(384, ge=4)
    """Width D of the tokens, a multiple of 4 and of num_heads (S 384, B 768, L 1024, XL 1152)."""
    depth: int = Field(12, ge=1)
    """Number of blocks (S and B 12, L 24, XL 28)."""
    num_heads: int = Field(6, ge=1)
    """Attention heads per block (S 6, B 12, L and XL 16)."""
    mlp_ratio: float = Field(4.0, gt=0)
    """Width of the MLP's hidden layer in units of hidden_size."""
    in_channels: int = Field(4, ge=1)
    """Channels of the latents."""
    input_size: int | tuple[int, int] = 32
    """Height and width of the latents in training (one number: both)."""
    patch_size: int = Field(2, ge=1)
    """Side of a patch in latent pixels."""
    num_classes: int = Field(0, ge=0)
    """Class labels 0 .. num_classes - 1; num_classes itself is the null class; 0 = no labels."""
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
    def _check(self) -> DiTConfig:
        check_port_names(self.vectors, self.fields)
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            raise ValueError(
                f"hidden_size {self.hidden_size}: expected a multiple of num_heads {self.num_heads} and of 4"
            )
        if any(side % self.patch_size for side in self.latent_size):
            raise ValueError(f"input_size {self.input_size} must be a multiple of patch_size {self.patch_size}")
        return self


class DiTBlock(nn.Module):
    """Attention within a frame and an MLP, each modulated and gated by the condition (adaLN-Zero, figure 3)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.norm1 = nn.LayerNorm(D, eps=1e-6, elementwise_affine=False)
        self.attn = Attention(D, config.num_heads)
        self.norm2 = nn.LayerNorm(D, eps=1e-6, elementwise_affine=False)
        self.mlp = Mlp(D, int(D * config.mlp_ratio))
        self.adaLN_modulation = AdaptiveParameters(D, 6)

    def forward(self, x: Tensor, c: Tensor, lists: Lists | None) -> Tensor:
        """Tokens x (B, T, S, D), condition c (B, 1, D), which frames each reads -> (B, T, S, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c)
        h = spatial_attention(self.attn, modulate(self.norm1(x), shift1, scale1), lists)
        x = gated_add(x, gate1, h)
        return gated_add(x, gate2, self.mlp(modulate(self.norm2(x), shift2, scale2)))


class FinalLayer(nn.Module):
    """Norm, modulation and the linear head that starts at zero: (B, T, S, D) -> (B, T, S, values per patch)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        channels = config.in_channels * (2 if config.learned_variance else 1)
        self.norm_final = nn.LayerNorm(config.hidden_size, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(config.hidden_size, config.patch_size**2 * channels)
        self.adaLN_modulation = AdaptiveParameters(config.hidden_size, 2)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Tokens x (B, T, S, D), condition c (B, 1, D)."""
        shift, scale = self.adaLN_modulation(c)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class DiT(Denoiser):
    """DiT with adaLN-Zero blocks; see `DiTConfig`. A label that is not given counts as the null class."""

    Config = DiTConfig

    pos_embed: Tensor
    reach = Reach("own")

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        more = named_ports(config.vectors, config.fields)
        self.spec = DenoiserSpec(config.in_channels, config.learned_variance, config.num_classes, more=more)
        self.x_embedder = PatchEmbed(config.in_channels, config.hidden_size, config.patch_size)
        self.t_embedder = TimestepEmbedder(config.hidden_size)
        if config.num_classes:
            self.y_embedder = LabelEmbedder(config.num_classes, config.hidden_size)
        self.ports = ConditionPorts(config.vectors, config.fields, config.hidden_size, config.patch_size)
        self._add_blocks()
        h, w = (side // config.patch_size for side in config.latent_size)
        self.grid = (h, w)
        self.register_buffer("pos_embed", sincos_2d(torch.arange(h), torch.arange(w), config.hidden_size)[None])
        self.reset_parameters()

    def _add_blocks(self) -> None:
        """The blocks and the layer behind them."""
        self.blocks = nn.ModuleList(DiTBlock(self.config) for _ in range(self.config.depth))
        self.final_layer = FinalLayer(self.config)

    def reset_parameters(self) -> None:
        """Xavier for linear layers, every block the identity, the output zero (section 3.2)."""
        initialize_transformer(self)

    def forward(self, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None = None) -> Tensor:
        """z (B, C, T, H, W), t (B,), conditions -> prediction (B, C or 2C, T, H, W), every frame by itself
        unless the options say which others it reads.

        Raises:
            InputError: where a shape is wrong or a condition is given that the model was not built for.
        """
        self.check_inputs(z, t, conditions)
        x, c, lists = self.prepared(z, t, conditions, options)
        added, p = self.residuals(options), self.config.patch_size
        x = run_blocks(x, options, lambda x: self._blocks(x, c, lists, added), lambda x: self._modulated(x, c))
        return unpatchify(self.final_layer(x, c), (z.shape[3] // p, z.shape[4] // p), p)

    def prepared(
        self, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None
    ) -> tuple[Tensor, Tensor, Lists | None]:
        """What the blocks begin with: tokens (B, T, S, D), condition (B, 1, D), which frames each reads.

        Raises:
            InputError: for sides that are no multiples of the patch.
        """
        p = self.config.patch_size
        if z.shape[3] % p or z.shape[4] % p:
            raise InputError(f"expected latents with sides in multiples of {p}, got {z.shape[3]} x {z.shape[4]}")
        x = self.ports.add_fields(self.x_embedder(z), conditions)
        x = x + place_embedding(self.pos_embed, self.grid, (z.shape[3] // p, z.shape[4] // p), p).to(x.dtype)
        return x, self._condition(t, conditions), self.reach_lists(x.shape[1], options)

    def _blocks(self, x: Tensor, c: Tensor, lists: Lists | None, added: Mapping[int, Tensor]) -> Tensor:
        for i, block in enumerate(self.blocks):
            if self.config.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, c, lists, use_reentrant=False)
            else:
                x = block(x, c, lists)
            if i in added:
                x = x + added[i]
        return x

    def _modulated(self, x: Tensor, c: Tensor) -> Tensor:
        """What the first block's attention is given."""
        first: Any = self.blocks[0]
        shift, scale, *_ = first.adaLN_modulation(c)
        return modulate(first.norm1(x), shift, scale)

    def _condition(self, t: Tensor, conditions: Conditions) -> Tensor:
        """Embedding (B, 1, D) of time, class and other vectors."""
        c = self.ports.add_vectors(self.t_embedder(t), conditions)
        if self.config.num_classes:
            label = conditions.label
            if label is None:
                label = torch.full(t.shape, self.spec.unlabelled, device=t.device)
            c = c + self.y_embedder(label, conditions.null_of("label"))
        return c[:, None]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """The fixed table may be absent from a checkpoint: it is what this config makes it."""
        state_dict.setdefault(prefix + "pos_embed", self.pos_embed)
        super()._load_from_state_dict(state_dict, prefix, *args)
