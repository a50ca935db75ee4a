"""A control network for DiT (Chen et al. 2024, "PIXART-delta", arXiv:2401.05252, section 4: ControlNet-Transformer).

A copy of the first N blocks reads a map as well: the autoencoder's latents of it, embedded like the noisy latents by
patches that start at zero and added to their tokens. What copied block i makes goes through a linear layer that starts
at zero and is added behind block i of the model; the blocks after the N-th get no contribution of their own.

Shapes: B batch, C channels, T frames, S tokens per frame, D width. Tokens are (B, T, S, D).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kinolab.contracts.conditions import Conditions
from kinolab.contracts.options import ForwardOptions
from kinolab.denoisers.dit import DiT, DiTBlock, DiTConfig
from kinolab.layers.initialization import zeroed
from kinolab.layers.patchify import PatchEmbed


class ControlNetDiTConfig(DiTConfig):
    """The fields of the DiT that it is a copy of; `depth` is the number of copied blocks."""

    kind: Literal["controlnet_dit"] = "controlnet_dit"  # type: ignore[assignment]
    hint_channels: int = Field(4, ge=1)
    """Channels of the map's latents."""


class ControlNetDiT(DiT):
    """The copy; see `ControlNetDiTConfig`. It is no denoiser by itself: `read` gives what is added to one."""

    Config = ControlNetDiTConfig
    config: ControlNetDiTConfig

    def _add_blocks(self) -> None:
        """The copied blocks, what they make, and the map's patches."""
        c = self.config
        self.blocks = nn.ModuleList(DiTBlock(c) for _ in range(c.depth))
        self.controlnet_blocks = nn.ModuleList(nn.Linear(c.hidden_size, c.hidden_size) for _ in range(c.depth))
        self.hint_embedder = PatchEmbed(c.hint_channels, c.hidden_size, c.patch_size)

    def reset_parameters(self) -> None:
        """What is new starts at zero; all else is copied."""
        zeroed(self.controlnet_blocks)
        zeroed(self.hint_embedder)

    @torch.no_grad()
    def copy_from(self, denoiser: DiT) -> None:
        """Take the weights of the DiT that it is beside."""
        given, own = denoiser.state_dict(), self.state_dict()
        for name in own.keys() & given.keys():
            own[name].copy_(given[name])

    def read(
        self, z: Tensor, t: Tensor, conditions: Conditions, hint: Tensor, options: ForwardOptions | None = None
    ) -> list[Tensor]:
        """What each copied block adds, (B, T, S, D).

        Args:
            z, t, conditions: as the DiT is told them. hint: the map's latents (B, hint_channels, T, H, W).
            options: of these the reach counts, which is that of the copy's own attention.
        """
        x, c, lists = self.prepared(z, t, conditions, options)
        x = x + self.hint_embedder(hint.to(z.dtype))
        made = []
        for block, layer in zip(self.blocks, self.controlnet_blocks, strict=True):
            x = block(x, c, lists)
            made.append(layer(x))
        return made


def copy_config(config: DiTConfig, depth: int, **fields: object) -> ControlNetDiTConfig:
    """The config of a copy of a DiT's first blocks."""
    values = {name: getattr(config, name) for name in DiTConfig.model_fields if name != "kind"}
    return ControlNetDiTConfig.model_validate({**values, "depth": depth, **fields})
