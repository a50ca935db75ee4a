"""The hierarchical sampler for long clips (Zhang et al. 2023, ControlVideo, arXiv:2305.13077, section 3.4).

A clip that is too long for attention across all its frames is predicted piece by piece, in every step: first the key
frames, every (window - 1)-th and the last one, which read each other; then the frames between two of them, which read
these two. So the cost grows with the clip's length in place of its square, and far frames still agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from kinolab.config import Config as BaseConfig
from kinolab.contracts.method import Call, Method, Predict, Run
from kinolab.contracts.reach import Reach
from kinolab.errors import InputError

LEAST = 3
"""Frames of a window: two key frames and one between them."""


class HierarchicalConfig(BaseConfig):
    """Which frames are key frames."""

    window: int | None = Field(None, ge=LEAST)
    """Frames from one key frame to the next, both counted; none = the square root of the clip's frames."""
    whole: int = Field(16, ge=1)
    """A clip of at most so many frames is predicted whole, every frame reading all."""
    read: Literal["keys", "released"] = "keys"
    """What a frame between two key frames reads: keys = those two, as the paper says; released = the first of them and
    the last frame between them, as the released code does."""


class Hierarchical(Method):
    """Predicts the key frames of a long clip together, then what lies between them."""

    Config: ClassVar[type[BaseConfig]] = HierarchicalConfig
    decides = ("reach",)
    whole_clips = True
    config: HierarchicalConfig

    def check(self, run: Run) -> None:
        """Raises InputError for a denoiser whose frames can't read others, and beside what reads or keeps frames."""
        name, frames = type(run.denoiser).__name__, run.shape[2]
        if getattr(run.denoiser, "reach", None) is None:
            raise InputError(f"hierarchical: the frames of {name} read what they were trained to read: leave it out")
        if run.denoiser.token_frames(frames) != frames:
            raise InputError(f"hierarchical: {name} makes one frame of tokens of several frames: leave it out")
        if any(method.option == "cache" for method in run.methods):
            raise InputError("a step cache goes with calls on the same frames, and hierarchical's differ: leave it out")

    def network(self, inner: Predict, run: Run) -> Predict:
        """The same prediction, made of those of the key frames and of the frames between them."""
        whole, window = self.config.whole, self.config.window

        def on(frames: Sequence[int], call: Call, reach: Reach) -> dict[str, Tensor]:
            """The call for some frames of its z, which read each other so."""
            options, told = replace(call.options, reach=reach), run.frames
            if options.image_only is not None:
                options = replace(options, image_only=options.image_only[:, frames])
            run.frames = tuple(frames if told is None else (told[frame] for frame in frames))
            try:
                return inner(replace(call, z=call.z[:, :, frames], options=options))
            finally:
                run.frames = told

        def predict(call: Call) -> dict[str, Tensor]:
            frames = call.z.shape[2]
            if frames <= whole:
                return inner(replace(call, options=replace(call.options, reach=Reach("all"))))
            keys = key_frames(frames, window)
            order, pieces = [*keys], [on(keys, call, Reach("all"))]
            for first, last in pairwise(keys):
                between = list(range(first + 1, last))
                if between:
                    found = on([first, *between, last], call, Reach(read_between(len(between), self.config.read)))
                    pieces.append({name: value[:, :, 1:-1] for name, value in found.items()})
                    order += between
            place = torch.tensor(order).argsort().to(call.z.device)
            return {name: torch.cat([found[name] for found in pieces], 2)[:, :, place] for name in pieces[0]}

        return predict


def key_frames(frames: int, window: int | None = None) -> list[int]:
    """The key frames of a clip: every (window - 1)-th, and the last one.

    >>> key_frames(11, 4)
    [0, 3, 6, 9, 10]
    """
    step = max(LEAST, math.isqrt(frames) if window is None else window) - 1
    keys = list(range(0, frames, step))
    return keys if keys[-1] == frames - 1 else [*keys, frames - 1]


def read_between(count: int, read: Literal["keys", "released"]) -> tuple[tuple[int, ...], ...]:
    """What each frame of a key frame, `count` frames and the next key frame reads."""
    last = count + 1 if read == "keys" else count
    return ((0, last),) * (count + 2)
