"""Text that weighs as much against the frames that are read as against those of training, in one attention of both.

In an MMDiT text and pictures share one softmax. A frame that is made to read R frames where it was trained to read one
sees R times as many keys of pictures, and its text counts for as much less; adding log R to the logits of the text's
keys counts each of them R times. Frames of equal noise are then the image model's picture, as they are in a U-Net or
DiT, whose text has an attention of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from kinolab.config import Config as BaseConfig
from kinolab.contracts.method import Method, Predict, Run
from kinolab.errors import InputError


class TextBalanceConfig(BaseConfig):
    """How much text weighs."""

    frames: int | None = Field(None, ge=1)
    """Text weighs as it does beside so many frames; none = as many as were read in training."""


class TextBalance(Method):
    """Keeps the weight of text where a run makes frames read more, or fewer, than in training."""

    Config: ClassVar[type[BaseConfig]] = TextBalanceConfig
    config: TextBalanceConfig

    def check(self, run: Run) -> None:
        """Raises InputError for a denoiser whose text has an attention of its own, or that has none."""
        if not getattr(run.denoiser, "balances_text", False):
            name = type(run.denoiser).__name__
            raise InputError(f"text_balance: {name} has no attention that pictures and text share: leave it out")

    def network(self, inner: Predict, run: Run) -> Predict:
        """The same calls with the balance among their options."""

        reach = run.denoiser.reach
        assert reach is not None
        frames = self.config.frames or len(reach.lists(run.denoiser.token_frames(run.shape[2]))[0])
        return lambda call: inner(replace(call, options=replace(call.options, text_beside=frames)))
