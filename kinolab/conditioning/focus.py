"""Focus on the present: a vector of one number, 1 where attention over time sees each frame alone, else 0.

A video model that is so now and then in training learns each frame's picture apart from its motion (the focus-present
mask of lucidrains/video-diffusion-pytorch; the paper's own way is single images behind a clip, `images`). In sampling
it makes frames that know little of each other. Its null is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from kinolab.conditioning.base import ConditionConfig, Draws, Setting, VectorCondition, uniform
from kinolab.contracts.examples import Example
from kinolab.contracts.request import Request
from kinolab.errors import InputError


class FocusConfig(ConditionConfig):
    """How often clips are trained so."""

    dropout: float = Field(0.0, ge=0, le=1)
    """Share of samples in which it is left out all the same."""
    share: float = Field(0.1, ge=0, le=1)
    """Share of samples whose frames see themselves alone."""


class Focus(VectorCondition):
    """Whether a clip's frames see themselves alone."""

    name = "focus"
    Config = FocusConfig

    def asked(self, request: Request, setting: Setting) -> float:
        """0, or 1 where a request asks for it.

        Raises:
            InputError: for another number.
        """
        value = request.conditions.get(self.name)
        if value is not None and value not in (0, 1):
            raise InputError(f"focus: expected 0 or 1 (each frame sees itself alone over time), got {value!r}")
        return 0.0 if value is None else float(value)

    def shown(self, examples: Sequence[Example], setting: Setting, draws: Draws) -> Sequence[float]:
        """1 for a random share of examples."""
        return (uniform(draws(self.name)) < self.config.share).float().tolist()
