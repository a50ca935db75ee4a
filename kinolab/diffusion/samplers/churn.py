"""Churn (Karras et al. 2022, algorithm 2): noise is added before a step, which then begins at a higher level."""

from __future__ import annotations

import math

from pydantic import Field
from torch import Generator, Tensor, randn

from kinolab.config import Config
from kinolab.diffusion.path import NoisePath


class ChurnConfig(Config):
    """How much noise is added, and where; sigma is the noise level sigma / alpha."""

    amount: float = Field(default=0.0, ge=0.0)
    """S_churn: of n steps each raises sigma by the share amount / n, of at most sqrt(2) - 1; 0 = no churn."""
    low: float = Field(default=0.0, ge=0.0)
    """S_tmin: below this sigma nothing is added."""
    high: float = Field(default=math.inf, ge=0.0)
    """S_tmax: above this sigma nothing is added."""
    noise: float = Field(default=1.0, gt=0.0)
    """S_noise: standard deviation of the noise that is added; slightly above 1 keeps detail."""


def churned(
    z: Tensor, t: float, path: NoisePath, config: ChurnConfig | None, steps: int, generator: Generator | None
) -> tuple[Tensor, float]:
    """z and t with the noise that the step at time t begins with; as they are where there is none.

    Raises:
        InputError: for a path of whole times.
    """
    if config is None or not config.amount:
        return z, t
    alpha, sigma = path.scalars(t)
    level = sigma / alpha if alpha else math.inf
    if not config.low <= level <= config.high or math.isinf(level):  # pure noise has no more to be added
        return z, t
    raised = level * (1 + min(config.amount / steps, math.sqrt(2) - 1))
    new = path.at_level(raised)
    extra = config.noise * math.sqrt(raised**2 - level**2)
    noise = randn(z.shape, generator=generator, dtype=z.dtype).to(z.device)  # on the CPU: alike on every device
    return path.scalars(new)[0] * (z / alpha + extra * noise), new
