"""Prediction: the first frames are given and the future is generated, or the last ones and the past."""

from __future__ import annotations

import torch
from torch import Tensor

from kinolab.errors import InputError


def predict_mask(frames: int, height: int, width: int, given: int) -> Tensor:
    """(T, H, W): the first `given` of T frames are given.

    Raises:
        InputError: unless 1 <= given < T.
    """
    if not 1 <= given < frames:
        raise InputError(f"expected 1 to {frames - 1} given frames of {frames}, got {given}")
    mask = torch.ones(frames, height, width)
    mask[:given] = 0
    return mask


def past_mask(frames: int, height: int, width: int, given: int) -> Tensor:
    """(T, H, W): the last `given` of T frames are given."""
    return predict_mask(frames, height, width, given).flip(0)


def draw_predict(
    frames: int, height: int, width: int, given: tuple[int, int] | None, generator: torch.Generator
) -> Tensor:
    """A prediction mask with a number of given frames drawn evenly from `given` (both ends included; none = any)."""
    low, high = given if given is not None else (1, frames - 1)
    low, high = min(low, frames - 1), min(high, frames - 1)
    return predict_mask(frames, height, width, int(torch.randint(low, high + 1, (), generator=generator)))
