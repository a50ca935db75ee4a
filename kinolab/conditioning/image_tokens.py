"""The first frame as tokens of an image encoder, in the place of a prompt: what is in the picture.

The encoder sees the picture as it is, without the noise that its latents may have (`image`). Its null is zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kinolab.conditioning.base import ConditionConfig, Draws, Setting, TokensCondition, uniform
from kinolab.conditioning.clips import example_clips, request_picture
from kinolab.contracts.conditions import Conditions
from kinolab.contracts.examples import Example
from kinolab.contracts.request import Request
from kinolab.errors import InputError


class ImageTokensConfig(ConditionConfig):
    """How often they are left out in training."""

    dropout: float = Field(0.1, ge=0, lt=1 / 3)
    """Rate p, of which `image` says more."""


class ImageTokens(TokensCondition):
    """What an image encoder says of the first frame, or of another picture that a request names for it."""

    name = "image_tokens"
    Config = ImageTokensConfig

    def files(self, value: Any) -> list[Path]:
        """The picture's file."""
        return [Path(value)] if isinstance(value, str | Path) else []

    def asked(self, request: Request, setting: Setting) -> Tensor | None:
        """The picture (3, H, W) that a request names for it, or else as its first frame."""
        own = request_picture(self.name, request, setting)
        return request_picture("image", request, setting) if own is None else own

    def shown(self, examples: Sequence[Example], setting: Setting, draws: Draws) -> Sequence[Tensor]:
        """The first frames of the examples' own clips."""
        return [clip[:, 0] for clip in example_clips(self.name, examples, setting)]

    def tell(self, told: Sequence[Tensor | None], setting: Setting, before: Conditions, draws: Draws) -> Conditions:
        """Tokens (B, L, D), null and 0 of rows without a picture; nothing where nobody has one.

        Raises:
            InputError: for a model without an image encoder.
        """
        if setting.look is None:
            raise InputError("the denoiser reads an image's tokens and nothing makes them: set image_encoder")
        there = [picture for picture in told if picture is not None]
        found = iter(setting.look(torch.stack(there)) if there else ())
        return self.stacked([None if picture is None else next(found) for picture in told], setting)

    def dropped(self, draws: Draws) -> Tensor:
        """Rows (B,): of the draw that it shares with `image`, 0 to 2p."""
        return uniform(draws("dropout image")) < 2 * self.config.dropout
