"""Classifier-free guidance (Ho & Salimans 2022): wraps a denoiser's prediction, knows nothing of samplers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kinolab.config import Config
from kinolab.contracts.options import ForwardOptions
from kinolab.errors import InputError
from kinolab.layers.step_cache import StepCache


class Conditions(Protocol):
    """The part of the denoisers' Conditions that guidance uses."""

    @property
    def label(self) -> Tensor | None: ...
    @property
    def text(self) -> Tensor | None: ...
    @property
    def pooled(self) -> Tensor | None: ...
    def all_null(self, batch: int, device: torch.device | str = "cpu") -> Self: ...
    @staticmethod
    def cat(first: Any, second: Any) -> Any: ...


DenoiserLike = Callable[..., Tensor]
"""denoiser(z (B, C, T, H, W), t (B,), conditions, options if the run has some) -> prediction, (B, C or 2C, T, H, W)."""

Predict = Callable[[Tensor, float], Tensor]
"""predict(z, t) -> prediction, with the conditions bound."""


class GuidanceConfig(Config):
    """How far to move from the unconditional towards the conditional prediction, and when."""

    scale: float = Field(default=1.0, ge=0.0)
    """unconditional + scale * (conditional - unconditional): 1 is off, 0 is unconditional."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Fractions of time, low and high, with 1 the pure noise; outside only the conditional branch runs (Kynkäänniemi
    et al. 2024)."""
    rescale: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the guided prediction's standard deviation that is set back to the conditional one's (Lin et al.
    2024, section 3.4); 0 is off, 0.7 is their choice."""
    batched: bool = True
    """Run both branches as one doubled batch; off runs them one after the other with half the memory."""

    @model_validator(mode="after")
    def _check(self) -> GuidanceConfig:
        low, high = self.interval
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(f"interval must be two fractions with 0 <= low <= high <= 1, got {low} and {high}")
        return self

    @property
    def active(self) -> bool:
        """Whether guidance changes anything at any time."""
        return self.scale != 1.0


def guided(
    denoiser: DenoiserLike,
    conditions: Conditions,
    config: GuidanceConfig,
    *,
    channels: int,
    fraction: Callable[[float], float],
    cache: StepCache | None = None,
    negative: Conditions | None = None,
    options: ForwardOptions | None = None,
) -> Predict:
    """The denoiser with its conditions bound and guidance applied, as predict(z, t) in the dtype of z.

    Only the first `channels` channels are guided; a learned variance behind them is the conditional branch's.

    Args:
        denoiser: called with t as a (B,) float32 tensor.
        conditions: those of the conditional branch; `all_null` gives the unconditional one.
        config: scale, interval, rescale.
        channels: number of prediction channels.
        fraction: time -> fraction in [0, 1], to compare with the interval.
        cache: is told which branch a call computes, and says in which steps the unconditional one may be left out.
        negative: what to move away from, in place of the unconditional branch: a negative prompt's conditions.
        options: what the run asks of the denoiser; none = it is called without.

    Raises:
        InputError: where there is guidance and nothing to guide towards, or a negative and no guidance.
    """
    if negative is not None and not config.active:
        raise InputError("a negative prompt is what guidance moves away from, and scale 1 has none: use another scale")
    if config.active and conditions.label is None and conditions.text is None and conditions.pooled is None:
        raise InputError(
            f"guidance scale {config.scale:g} needs a label or a text to guide towards, and none was given: use scale 1"
        )
    low, high = config.interval

    def call(z: Tensor, t: float, which: Conditions, *rows: str) -> Tensor:
        if cache is not None:
            cache.rows = rows
        times = torch.full((z.shape[0],), t, dtype=torch.float32, device=z.device)
        return (denoiser(z, times, which) if options is None else denoiser(z, times, which, options)).to(z.dtype)

    def predict(z: Tensor, t: float) -> Tensor:
        # The margin keeps the interval's own ends in it, after the rounding of times to units and back.
        if not config.active or not low - 1e-9 <= fraction(t) <= high + 1e-9:
            return call(z, t, conditions, "conditional")
        if cache is not None and not cache.unconditional_due():
            assert cache.difference is not None
            conditional = call(z, t, conditions, "conditional")
            mixed = combine(conditional[:, :channels], conditional[:, :channels] - cache.difference, config)
            return torch.cat([mixed, conditional[:, channels:]], 1)
        null = conditions.all_null(z.shape[0], z.device) if negative is None else negative
        if config.batched:
            both = call(torch.cat([z, z]), t, conditions.cat(conditions, null), "conditional", "unconditional")
            conditional, unconditional = both.chunk(2)
        else:
            conditional = call(z, t, conditions, "conditional")
            unconditional = call(z, t, null, "unconditional")
        if cache is not None:
            cache.difference = (conditional - unconditional)[:, :channels]
        mixed = combine(conditional[:, :channels], unconditional[:, :channels], config)
        return torch.cat([mixed, conditional[:, channels:]], 1)

    return predict


def combine(conditional: Tensor, unconditional: Tensor, config: GuidanceConfig) -> Tensor:
    """Guided prediction from both branches, (B, C, T, H, W) each; Lin et al. 2024, eq. 14 to 16."""
    mixed = unconditional + config.scale * (conditional - unconditional)
    if not config.rescale:
        return mixed
    dims = tuple(range(1, mixed.ndim))
    ratio = conditional.std(dims, keepdim=True) / mixed.std(dims, keepdim=True).clamp(min=1e-12)
    return mixed * (config.rescale * ratio + 1.0 - config.rescale)
