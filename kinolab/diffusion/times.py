"""Distributions of training times: maps from draws that are uniform over (0, 1) to times t in (0, 1), 1 = noise.

Esser et al. 2024 (Scaling Rectified Flow Transformers), section 3.1, with the density of each. All are float64 and keep
the draws' shape; a shift of times comes after them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from kinolab.errors import InputError

TimeSampling = Literal["uniform", "logit_normal", "mode", "cosmap"]
DRAWS = 1000
"""After which times are taken never to lie in an interval."""
MODE_SCALE_MAX = 2.0 / (math.pi - 2.0)
"""Largest scale at which mode sampling's map still falls everywhere."""


def logit_normal(u: Tensor, mean: float, std: float) -> Tensor:
    """logit(t) ~ N(mean, std^2), eq. 19: density exp(-(logit t - m)^2 / 2 s^2) / (s sqrt(2 pi) t (1 - t))."""
    normal = torch.special.ndtri(u.double().clamp(1e-9, 1.0 - 1e-9))
    return torch.sigmoid(mean + std * normal)


def mode(u: Tensor, scale: float) -> Tensor:
    """t = 1 - u - s (cos^2(pi/2 u) - 1 + u), eq. 20: density |du/dt|, whose mode is at 1/2 for s > 0.

    Unlike the logit-normal's, the density does not vanish at the ends.
    """
    u = u.double()
    return 1.0 - u - scale * (torch.cos(math.pi / 2 * u).square() - 1.0 + u)


def cosmap(u: Tensor) -> Tensor:
    """t = 1 - 1 / (tan(pi/2 u) + 1), eq. 21 and 22: density 2 / (pi - 2 pi t + 2 pi t^2).

    The log signal-to-noise ratio is then distributed as on the cosine schedule (Nichol & Dhariwal 2021).
    """
    return 1.0 - 1.0 / (torch.tan(math.pi / 2 * u.double()) + 1.0)


def within(draw: Callable[[], Tensor], fraction: Callable[[float], float], interval: tuple[float, float]) -> Tensor:
    """Times (B,) drawn again and again until they lie in an interval of fractions (0 clean, 1 noise).

    So they have the distribution that they have there anyway, and the whole interval takes one draw, as before.

    Raises:
        InputError: where they hardly ever do.
    """
    times = draw()
    for _ in range(DRAWS):
        outside = torch.tensor([not interval[0] <= fraction(float(t)) <= interval[1] for t in times])
        if not outside.any():
            return times
        times = torch.where(outside, draw(), times)
    raise InputError(f"interval {list(interval)}: training times hardly ever lie there; widen it, or time_sampling")


def inside(fractions: Sequence[float], interval: tuple[float, float]) -> tuple[float, ...]:
    """Those fractions of time that lie in an interval, or else its middle."""
    found = tuple(f for f in fractions if interval[0] <= f <= interval[1])
    return found or ((interval[0] + interval[1]) / 2,)
