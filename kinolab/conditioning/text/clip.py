"""CLIP's text encoder (Radford et al. 2021) from a person's own folder, through transformers."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from kinolab.conditioning.text.public import FolderText, TextDtype, encoder_config, load_encoder
from kinolab.config import Config
from kinolab.errors import InputError

PROJECTING = ("CLIPTextModelWithProjection", "CLIPModel")
"""Architectures of config.json that hold a projection of the pooled state."""


class ClipTextConfig(Config):
    """A CLIP text encoder in a folder of your own, as transformers or diffusers saves it."""

    kind: Literal["clip"] = "clip"
    folder: Path
    """The folder with config.json, weights and tokenizer (or diffusers' text_encoder folder, its tokenizer beside)."""
    max_tokens: int = Field(77, ge=3)
    """Tokens per prompt, start and end mark included; longer prompts are cut with a warning."""
    layer: Literal["last", "penultimate"] = "last"
    """Which states: those of the last layer, normalised, or those that the last but one gives (as SD3 takes them)."""
    padded: bool = False
    """Fill prompts up to max_tokens with the tokenizer's padding, which is attended to as well (Stable Diffusion)."""
    dtype: TextDtype = "float32"
    """What the weights compute in."""
    cache_size: int = Field(1024, ge=0)
    """How many of the last prompts are remembered."""


class ClipText(FolderText):
    """CLIP: states of every token, and as pooled embedding the end mark's state.

    The pooled one is projected to the space shared with pictures where the folder's model has the projection, and the
    last layer's normalised state otherwise. Attention is causal, so what follows a prompt does not change it.
    """

    config: ClipTextConfig
    tokenizer_class = "CLIPTokenizer"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The text part of config.json."""
        values = encoder_config(self.config.folder, ("clip", "clip_text_model"), "a CLIP text encoder")
        limit = int(values.get("max_position_embeddings", 77))
        if self.config.max_tokens > limit:
            raise InputError(f"max_tokens={self.config.max_tokens}: {self.config.folder} takes at most {limit} tokens")
        return values

    @property
    def projecting(self) -> bool:
        """Whether the pooled embedding is projected."""
        return any(name in PROJECTING for name in self.settings["architectures"])

    @property
    def dim(self) -> int:
        """Width of a token's state."""
        return int(self.settings.get("hidden_size", 512))

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled embedding."""
        return int(self.settings.get("projection_dim", 512)) if self.projecting else self.dim

    @cached_property
    def model(self) -> Any:
        """The network, read at first use."""
        _ = self.settings  # says plainly what the folder holds instead
        name = "CLIPTextModelWithProjection" if self.projecting else "CLIPTextModel"
        return load_encoder(self.config.folder, name, self.config.dtype, self.device)

    def run(self, ids: list[int]) -> tuple[Tensor, Tensor]:
        """Token ids -> states (L', D) of the chosen layer and the pooled embedding (P,)."""
        penultimate = self.config.layer == "penultimate"
        answer = self.model(torch.tensor([ids], device=self.device), output_hidden_states=penultimate)
        pooled = answer.text_embeds if self.projecting else answer.pooler_output
        return (answer.hidden_states[-2] if penultimate else answer.last_hidden_state)[0], pooled[0]

    def _compute(self, prompt: str) -> tuple[Tensor, Tensor]:
        return self.run(self.padded(prompt) if self.config.padded else self.tokens(prompt))
