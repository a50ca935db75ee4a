"""What a network adds to the clip that it refines, on the cosine path in continuous time.

A clip x of which an enlarged clip c of low resolution is known lies near it: x ~ N(c, s^2). Of z = alpha x + sigma e
the best estimate is then

    x(z) = c + k (z - alpha c),  k = alpha s^2 / (alpha^2 s^2 + sigma^2)

and the network predicts what is left, in units of the deviation that x has from it: s sigma over the root of
alpha^2 s^2 + sigma^2. With c = 0 and s = 1 that is plain v-prediction; with c = 0 it is the preconditioning of EDM
(Karras et al. 2022, appendix B.6). So a network whose output is zero makes c at high noise, and has nothing to learn of
what c shows already.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TIME_UNITS = 1000.0
"""Times are told as 1000 * t."""
LOG_SNR = (-20.0, 20.0)
"""Least and most log(alpha^2 / sigma^2) of the path."""


def cosine_angle(t: Tensor, low: float = LOG_SNR[0], high: float = LOG_SNR[1]) -> Tensor:
    """The angle whose cosine is alpha and whose sine sigma at times t, 1000 * (0 to 1): log SNR falls from
    `high` to `low` as -2 log tan(angle) (Salimans & Ho 2022)."""
    start = math.atan(math.exp(-high / 2))
    return (math.atan(math.exp(-low / 2)) - start) * (t / TIME_UNITS) + start


def refined_v(output: Tensor, z: Tensor, t: Tensor, low: Tensor, level: Tensor | None, deviation: float) -> Tensor:
    """The prediction v (B, C, T, H, W) of a network's output, which is what it adds to the clip that it refines.

    Args:
        output, z, low: (B, C, T, H, W); low is the told clip, sqrt(1 - level^2) c + level e.
        t: (B,) times of the path.
        level: (B,) of the noise in `low`, 1 where nothing is told; none = no noise.
        deviation: s, of clips from the enlarged ones that they are told.
    """
    column, dtype = (-1, *[1] * (z.ndim - 1)), torch.promote_types(z.dtype, torch.float32)
    angle = cosine_angle(t.to(dtype)).view(column)
    alpha, sigma = angle.cos(), angle.sin()
    noise = angle.new_zeros(column[1:]) if level is None else level.to(angle).view(column)
    # E[c | low] where c has the variance 1, and how far the clip is from it: all that is known at level 1 is that.
    centre = (1 - noise.square()).sqrt()
    variance = deviation**2 + (1 - deviation**2) * noise.square()
    whole = alpha.square() * variance + sigma.square()
    parts = (sigma * alpha * (1 - variance) / whole, -sigma * centre / whole, (variance / whole).sqrt())
    of_z, of_low, of_output = (part.to(z) for part in parts)
    return of_z * z + of_low * low.to(z) + of_output * output.to(z)
