"""A prior: the embedding that a picture of a prompt might have (Ramesh et al. 2022, DALL-E 2, section 2.2).

A small diffusion model of embeddings alone, told the text: it predicts the clean embedding from a noisy one by squared
error. Two embeddings are drawn for each prompt, and the one that is closer to the text's is taken (section 2.2 too).
Text is learned by it from captioned pictures; a model of videos that is told such embeddings needs no captions at all
(Make-A-Video, Singer et al. 2022, section 3.1).

Shapes: B prompts, D width of an embedding, P of the text encoder's pooled one, W of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kinolab.config import Config
from kinolab.contracts.conditions import Conditions
from kinolab.contracts.options import ForwardOptions
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.layers.embeddings import PooledEmbedder, TimestepEmbedder


class PriorConfig(Config):
    """The network, and how it is sampled."""

    width: int = Field(256, ge=1)
    """Width W of the layers."""
    depth: int = Field(4, ge=1)
    """Residual blocks."""
    diffusion: DiffusionConfig = DiffusionConfig(schedule="cosine", prediction="sample")
    """Noise path and what is predicted."""
    sampler: SamplerConfig = SamplerConfig(name="ddim", steps=20)
    """How embeddings are drawn."""
    candidates: int = Field(2, ge=1)
    """Embeddings drawn for each prompt, of which the one closest to the text's is taken."""


class PriorBlock(nn.Module):
    """h + MLP(norm(h)), scaled and shifted by the time and the text; begins as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        for layer in (self.modulation, self.mlp[2]):
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        """h (B, W), c (B, W) -> (B, W)."""
        scale, shift = self.modulation(F.silu(c)).chunk(2, -1)
        return h + self.mlp(self.norm(h) * (1 + scale) + shift)


class Prior(nn.Module):
    """Noisy embeddings, as latents (B, D, 1, 1, 1), and a text -> clean ones.

    It is told the text's pooled embedding (`pooled`) and what that is among the pictures' embeddings (`text`, as the
    one token of it).

    Args:
        embedding: D. pooled: P.
    """

    def __init__(self, config: PriorConfig, embedding: int, pooled: int) -> None:
        super().__init__()
        self.config, self.diffusion = config, Diffusion(config.diffusion)
        self.time = TimestepEmbedder(config.width)
        self.text = PooledEmbedder(pooled, config.width)
        self.first = nn.Linear(2 * embedding, config.width)
        self.blocks = nn.ModuleList(PriorBlock(config.width) for _ in range(config.depth))
        self.last = nn.Linear(config.width, embedding)

    def forward(self, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None = None) -> Tensor:
        """z (B, D, 1, 1, 1), t (B,), pooled (B, P) and text (B, 1, D) of conditions -> (B, D, 1, 1, 1)."""
        pooled, text = conditions.pooled, conditions.text
        assert pooled is not None and text is not None
        c = self.time(t) + self.text(pooled)
        h = self.first(torch.cat([z.flatten(1), text[:, 0]], -1))
        for block in self.blocks:
            h = block(h, c)
        return self.last(h).view(z.shape)

    def loss(self, embedding: Tensor, pooled: Tensor, text: Tensor, sources: Sequence[torch.Generator]) -> Tensor:
        """The squared errors (B,) of pictures' embeddings (B, D) and their captions, pooled (B, P) and text (B, D).

        `sources` are the randomness of each row.
        """
        z0 = embedding.view(*embedding.shape, 1, 1, 1)
        noise = torch.stack([torch.randn(z0.shape[1:], generator=g) for g in sources]).to(z0.device)
        times = torch.cat([self.diffusion.draw_times(1, g) for g in sources])
        told = Conditions(pooled=pooled, text=text[:, None])
        return self.diffusion.loss(self, z0, told, t=times, noise=noise)["loss"]

    @torch.no_grad()
    def sample(self, pooled: Tensor, text: Tensor, sources: Sequence[torch.Generator]) -> Tensor:
        """Embeddings (B, D) of texts, pooled (B, P) and text (B, D) of mean square 1; of `candidates` the closest."""
        (B, D), K = text.shape, self.config.candidates
        noise = torch.stack([torch.randn(D, 1, 1, 1, generator=g) for g in sources for _ in range(K)]).to(text.device)
        told = Conditions(pooled=pooled.repeat_interleave(K, 0), text=text[:, None].repeat_interleave(K, 0))
        network: Any = self
        drawn = self.diffusion.sample(network, noise, told, sampler=self.config.sampler, generator=sources[0])
        found = F.normalize(drawn.flatten(1), dim=1).view(B, K, D) * D**0.5
        best = (found * text[:, None]).sum(-1).argmax(1)  # both have one length: the largest product is the closest
        return found[torch.arange(B, device=best.device), best]
