"""What is asked of a video model: one clip's prompt, label, shape and seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from kinolab.errors import InputError


@dataclass(frozen=True)
class Request:
    """What to generate: given fields are checked against the model.

    Raises:
        InputError: for a field of another type, or a number that is no count, size, rate or seed.
    """

    prompt: str | None = None
    label: int | str | None = None
    frames: int | None = None
    size: tuple[int, int] | None = None
    """Height and width in pixels."""
    seed: int = 0
    negative: str | None = None
    fps: float | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """More that is asked of the clip, by the names of conditions (`kinolab.conditioning`): numbers, or a clip's file or
    pixels."""

    def __post_init__(self) -> None:
        for name in ("prompt", "negative"):
            text = getattr(self, name)
            if text is not None and not isinstance(text, str):
                raise InputError(f"{name}: expected text, got {_shown(text)}")
        if not _is_integer(self.seed) or not -(2**63) <= self.seed < 2**63:
            raise InputError(f"seed: expected a whole number of at most 63 bits, got {_shown(self.seed)}")
        if self.frames is not None and not (_is_integer(self.frames) and self.frames >= 1):
            raise InputError(f"frames: expected a whole number of at least 1, got {_shown(self.frames)}")
        if self.size is not None and not _is_size(self.size):
            raise InputError(f"size: expected (height, width) in pixels, such as (64, 96), got {_shown(self.size)}")
        if not isinstance(self.conditions, Mapping) or not all(isinstance(name, str) for name in self.conditions):
            raise InputError(f"conditions: expected values by the names of conditions, got {_shown(self.conditions)}")
        if self.fps is not None and not _is_rate(self.fps):
            raise InputError(f"fps: expected frames per second above 0, got {_shown(self.fps)}")

    @property
    def blank(self) -> bool:
        """Whether there is a prompt, and nothing in it."""
        return self.prompt is not None and not self.prompt.strip()


def listed_prompts(prompt: Any) -> list[str | None]:
    """One prompt, a list of them, or none (one clip without a prompt), as a list.

    Raises:
        InputError: for anything else, and for no prompts at all.
    """
    if prompt is None or isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, bytes | bytearray | Mapping) or not isinstance(prompt, Iterable):
        raise InputError(f"prompt: expected text or a list of texts, got {_shown(prompt)}")
    prompts = list(prompt)
    if not prompts:
        raise InputError(
            "prompt: expected at least one in the list, got none; leave it out for a clip without a prompt"
        )
    for number, text in enumerate(prompts):
        if text is not None and not isinstance(text, str):
            raise InputError(f"prompt {number} of the list: expected text, got {_shown(text)}")
    return prompts


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_rate(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < math.inf


def _is_size(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(_is_integer(v) and v >= 1 for v in value)


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
