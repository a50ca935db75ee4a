"""The text of Stable Diffusion 3 (Esser et al. 2024, section 4 and appendix B.3): two CLIPs and T5 together.

The states of both CLIPs' last layer but one stand side by side in width, filled up with zeros to T5's width, and T5's
tokens follow them: (77 + 256, 4096) in the published model. Both pooled embeddings stand side by side: (768 + 1280,).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from kinolab.conditioning.text.base import TextEncoder
from kinolab.conditioning.text.clip import ClipText, ClipTextConfig
from kinolab.conditioning.text.public import TextDtype
from kinolab.conditioning.text.t5 import T5Text, T5TextConfig
from kinolab.config import Config
from kinolab.errors import InputError


class Sd3TextConfig(Config):
    """The three text encoders of Stable Diffusion 3, in folders of your own."""

    kind: Literal["sd3"] = "sd3"
    folder: Path | None = None
    """A model in diffusers' layout, with text_encoder, text_encoder_2, text_encoder_3 and the tokenizers in it; none =
    the folders are named below."""
    clip_l: Path | None = None
    """The first CLIP, in place of the folder's text_encoder."""
    clip_g: Path | None = None
    """The second CLIP, in place of the folder's text_encoder_2."""
    t5: Path | None = None
    """T5, in place of the folder's text_encoder_3."""
    use_t5: bool = True
    """Off saves most of the memory: T5's tokens are zeros then, as the published model was trained to take them."""
    t5_dim: int = Field(4096, ge=1)
    """Width of T5's states where T5 is not used."""
    clip_tokens: int = Field(77, ge=3)
    """Tokens per prompt that both CLIPs read; longer prompts are cut with a warning."""
    t5_tokens: int = Field(256, ge=2)
    """Tokens per prompt that T5 reads; longer prompts are cut with a warning."""
    dtype: TextDtype = "float32"
    """What the weights compute in."""
    cache_size: int = Field(32, ge=0)
    """How many of the last prompts are remembered, at about 5 MB each."""

    @model_validator(mode="after")
    def _check(self) -> Sd3TextConfig:
        if self.folder is None and (self.clip_l is None or self.clip_g is None or (self.use_t5 and self.t5 is None)):
            raise ValueError("expected folder, or all of clip_l, clip_g and t5 (without use_t5 both CLIPs)")
        if not self.use_t5 and self.t5 is not None:
            raise ValueError("t5 names a folder that use_t5=false leaves unread: leave one of them out")
        return self


class Sd3Text(TextEncoder):
    """Both CLIPs' and T5's tokens in a row, and both CLIPs' pooled embeddings side by side.

    As published, prompts are filled up to their full length with padding that the encoders read and the denoiser
    attends to, so the mask is True everywhere.
    """

    config: Sd3TextConfig

    def __init__(self, config: Sd3TextConfig) -> None:
        super().__init__(config, config.cache_size)
        rest: dict[str, Any] = {"dtype": config.dtype, "cache_size": 0}
        clip = {"max_tokens": config.clip_tokens, "layer": "penultimate", **rest}
        self.clip_l = ClipText(ClipTextConfig(folder=self._place("clip_l", "text_encoder"), **clip))
        self.clip_g = ClipText(ClipTextConfig(folder=self._place("clip_g", "text_encoder_2"), **clip))
        self.t5: T5Text | None = None
        if config.use_t5:
            place = self._place("t5", "text_encoder_3")
            self.t5 = T5Text(T5TextConfig(folder=place, max_tokens=config.t5_tokens, **rest))

    def _place(self, field: str, inside: str) -> Path:
        own: Path | None = getattr(self.config, field)
        if own is not None:
            return own
        assert self.config.folder is not None
        return self.config.folder / inside

    @property
    def length(self) -> int:
        """Tokens of an embedding: CLIP's, then T5's."""
        return self.config.clip_tokens + self.config.t5_tokens

    @property
    def dim(self) -> int:
        """T5's width."""
        width, clips = self.t5.dim if self.t5 is not None else self.config.t5_dim, self.clip_l.dim + self.clip_g.dim
        if clips > width:
            raise InputError(f"both CLIPs' states are {clips} wide together, which is more than T5's {width}")
        return width

    @property
    def pooled_dim(self) -> int:
        """Both CLIPs' widths together."""
        return self.clip_l.pooled_dim + self.clip_g.pooled_dim

    def to(self, device: torch.device | str) -> Sd3Text:
        """Where to compute."""
        for encoder in self._encoders():
            encoder.to(device)
        return self

    def _encoders(self) -> list[ClipText | T5Text]:
        return [self.clip_l, self.clip_g, *([] if self.t5 is None else [self.t5])]

    def _compute(self, prompt: str) -> tuple[Tensor, Tensor]:
        width = self.dim
        states_l, pooled_l = self.clip_l.run(self.clip_l.padded(prompt, "the first CLIP"))
        states_g, pooled_g = self.clip_g.run(self.clip_g.padded(prompt, "the second CLIP"))
        clip = torch.cat([states_l, states_g], -1)
        clip = F.pad(clip, (0, width - clip.shape[-1]))
        if self.t5 is None:
            t5 = clip.new_zeros(self.config.t5_tokens, width)
        else:
            t5 = self.t5.run(self.t5.padded(prompt, "T5"))
        return torch.cat([clip, t5.to(clip)]), torch.cat([pooled_l, pooled_g])

    def knows(self, prompt: str) -> bool:
        """Whether any of the encoders knows a token of a prompt."""
        return any(encoder.knows(prompt) for encoder in self._encoders())

    def files(self) -> list[Path]:
        """Weights, tokenizers and configs of all of them."""
        return [path for encoder in self._encoders() for path in encoder.files()]
