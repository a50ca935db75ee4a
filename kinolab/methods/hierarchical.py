"""The hierarchical sampler for long clips (Zhang et al. 2023, ControlVideo, arXiv:2305.13077, section 3.4).

A clip that is too long for attention across all its frames is predicted piece by piece, in every step: first the key
frames, every (window - 1)-th and the last one, which read each other; then the frames between two of them, which read
these two. So the cost grows with the clip's length in place of its square, and far frames still agree.
"""

from __future__ import annotations

import math
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
    whole_clips = True
    config: HierarchicalConfig

    def check(self, run: Run) -> None:
        """Raises InputError for a denoiser whose frames can't read others, and beside what reads or keeps frames."""
        name, frames = type(run.denoiser).__name__, run.shape[2]
        if getattr(run.denoiser, "reach", None) is None:
            raise InputError(f"hierarchical: the frames of {name} read what they were trained to read: leave it out")
        if run.denoiser.token_frames(frames) != frames:
            raise InputError(f"hierarchical: {name} makes one frame of tokens of several frames: leave it out")
        for option in ("cache", "reach"):
            if any(method.option == option for method in run.methods):
                raise InputError(f"hierarchical: says itself which frames are read, so there is no {option} beside it")

    def network(self, inner: Predict, run: Run) -> Predict:
        """The same prediction, made of those of the key frames and of the frames between them."""
        frames = run.shape[2]
        if frames <= self.config.whole:
            return lambda call: inner(_of_frames(call, None, Reach("all")))
        keys = key_frames(frames, self.config.window)

        def predict(call: Call) -> dict[str, Tensor]:
            pieces = [(keys, inner(_of_frames(call, keys, Reach("all"))))]
            for first, last in pairwise(keys):
                between = list(range(first + 1, last))
                if between:
                    reach = Reach(read_between(len(between), self.config.read))
                    found = inner(_of_frames(call, [first, *between, last], reach))
                    pieces.append((between, {name: value[:, :, 1:-1] for name, value in found.items()}))
            order = torch.tensor([frame for part, _ in pieces for frame in part]).argsort().to(call.z.device)
            return {
                name: torch.cat([found[name] for _, found in pieces], 2).index_select(2, order)
                for name in pieces[0][1]
            }  # fmt: skip

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


def _of_frames(call: Call, frames: list[int] | None, reach: Reach) -> Call:
    """The call for some frames of the clip, none = for all, which read each other so."""
    options = replace(call.options, reach=reach)
    if frames is None:
        return replace(call, options=options)
    if options.image_only is not None:
        options = replace(options, image_only=options.image_only[:, frames])
    told = {name: conditions.at_frames(frames) for name, conditions in call.branches.items()}
    return replace(call, z=call.z[:, :, frames], branches=told, options=options)
