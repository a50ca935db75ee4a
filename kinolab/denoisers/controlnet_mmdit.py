"""A control network for MMDiT, as those of Stable Diffusion 3 are: a copy of its first blocks that reads a map as well.

The map is the autoencoder's latents of a picture. It is embedded like the noisy latents, by patches that start at
zero, and added to their tokens; what each of the N copied blocks makes goes through a linear layer that starts at zero,
and is added behind the blocks of the model that it stands for: behind block i of L that of number floor(i N / L), but
not behind the last one, whose text is only read. Names are ours of MMDiT, and for what is new those of the diffusers
library (SD3ControlNetModel).

Shapes: B batch, C channels, T frames, S tokens per frame, D width. Tokens are (B, T, S, D).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from kinolab.contracts.conditions import Conditions
from kinolab.contracts.options import ForwardOptions
from kinolab.denoisers.mmdit import JointBlock, Mmdit, MmditConfig
from kinolab.layers.initialization import zeroed
from kinolab.layers.patchify import PatchEmbed


class ControlNetMmditConfig(MmditConfig):
    """The fields of the MMDiT that it is a copy of; `depth` is the number of copied blocks."""

    kind: Literal["controlnet_mmdit"] = "controlnet_mmdit"  # type: ignore[assignment]
    hint_channels: int = Field(16, ge=1)
    """Channels of the map's latents, and of what stands beside them."""
    pooled: Literal["told", "zeros"] = "told"
    """The pooled prompt as the model is told it, or zeros, as InstantX's control networks were trained."""

    @model_validator(mode="after")
    def _check_patches(self) -> ControlNetMmditConfig:
        if self.temporal_patch != 1:
            raise ValueError("temporal_patch 2: a control network's map has a token of every frame; expected 1")
        return self


class ControlNetMmdit(Mmdit):
    """The copy; see `ControlNetMmditConfig`. It is no denoiser by itself: `read` gives what is added to one."""

    Config = ControlNetMmditConfig
    config: ControlNetMmditConfig

    def _add_blocks(self) -> None:
        """The copied blocks, none of which is the last one; what they make; and the map's patches."""
        c = self.config
        whole = c.model_copy(update={"depth": c.depth + 1})
        self.joint_blocks = nn.ModuleList(JointBlock(whole, i) for i in range(c.depth))
        self.controlnet_blocks = nn.ModuleList(nn.Linear(c.hidden_size, c.hidden_size) for _ in range(c.depth))
        self.pos_embed_input = PatchEmbed(c.hint_channels, c.hidden_size, c.patch_size)

    def reset_parameters(self) -> None:
        """What is new starts at zero; all else is copied, or read from a file."""
        zeroed(self.controlnet_blocks)
        zeroed(self.pos_embed_input)

    @torch.no_grad()
    def copy_from(self, denoiser: Mmdit) -> None:
        """Take the weights of the MMDiT that it is beside, as far as they fit: its last block reads the text only."""
        own = self.state_dict()
        for name, value in denoiser.state_dict().items():
            if name in own and own[name].shape == value.shape:
                own[name].copy_(value)

    def read(
        self, z: Tensor, t: Tensor, conditions: Conditions, hint: Tensor, options: ForwardOptions | None = None
    ) -> list[Tensor]:
        """What each copied block adds, (B, T, S, D).

        Args:
            z, t, conditions: as the MMDiT is told them. hint: the map's latents (B, hint_channels, T, H, W).
            options: of these the reach counts, which is that of the copy's own attention.
        """
        if self.config.pooled == "zeros" and self.config.pooled_dim:
            conditions = conditions.replace(pooled=z.new_zeros(len(z), self.config.pooled_dim))
        x, text, c, context = self.prepared(z, t, conditions, options)
        x = x + self.pos_embed_input(hint.to(z.dtype))
        made = []
        for block, layer in zip(self.joint_blocks, self.controlnet_blocks, strict=True):
            x, text = block(x, text, c, context)
            made.append(layer(x))
        return made


def spread_over(made: list[Tensor], depth: int) -> dict[int, Tensor]:
    """What N blocks made, by the numbers of the blocks of a model of `depth` that they are added behind."""
    last = max(1, depth - 1)  # a model of a single block has no other
    return {i: made[int(i / (depth / len(made)))] for i in range(last)}


def copy_config(config: MmditConfig, depth: int, **fields: object) -> ControlNetMmditConfig:
    """The config of a copy of an MMDiT's first blocks."""
    values = {name: getattr(config, name) for name in MmditConfig.model_fields if name != "kind"}
    dual = tuple(i for i in config.dual_attention_layers if i < depth)
    return ControlNetMmditConfig.model_validate({**values, "depth": depth, "dual_attention_layers": dual, **fields})
