"""T5's encoder (Raffel et al. 2020) from a person's own folder, through transformers."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from kinolab.conditioning.text.public import FolderText, TextDtype, encoder_config, load_encoder
from kinolab.config import Config


class T5TextConfig(Config):
    """A T5 encoder in a folder of your own, as transformers or diffusers saves it."""

    kind: Literal["t5"] = "t5"
    folder: Path
    """The folder with config.json, weights and tokenizer (or diffusers' text_encoder_3, its tokenizer beside)."""
    max_tokens: int = Field(256, ge=2)
    """Tokens per prompt, end mark included; longer prompts are cut with a warning."""
    dtype: TextDtype = "float32"
    """What the weights compute in; the largest T5 takes 19 GB of memory in float32 and half of it in bfloat16."""
    cache_size: int = Field(128, ge=0)
    """How many of the last prompts are remembered."""


class T5Text(FolderText):
    """T5's encoder: states of every token; it has no pooled embedding."""

    config: T5TextConfig
    tokenizer_class = "T5TokenizerFast"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """config.json."""
        return encoder_config(self.config.folder, ("t5", "mt5", "umt5"), "a T5 encoder")

    @property
    def dim(self) -> int:
        """Width of a token's state."""
        return int(self.settings.get("d_model", 512))

    @property
    def pooled_dim(self) -> int:
        """No pooled embedding."""
        return 0

    @cached_property
    def model(self) -> Any:
        """The network, read at first use."""
        names = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
        return load_encoder(self.config.folder, names[self.settings["model_type"]], self.config.dtype, self.device)

    def run(self, ids: list[int]) -> Tensor:
        """Token ids -> states (L', D), every token attending to every token."""
        states: Tensor = self.model(torch.tensor([ids], device=self.device)).last_hidden_state[0]
        return states

    def _compute(self, prompt: str) -> tuple[Tensor, Tensor]:
        return self.run(self.tokens(prompt)), torch.zeros(0)
