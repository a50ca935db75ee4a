"""Experts: several denoisers of one stage, each for an interval of times.

Balaji et al. 2022 (eDiff-I, section 4.1): what a denoiser has to do is not the same at all noise levels, and networks
of which each does a part of it do better at the same cost of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from kinolab.contracts.conditions import Conditions
from kinolab.contracts.options import ForwardOptions
from kinolab.denoisers.base import Denoiser
from kinolab.errors import InputError
from kinolab.models.part import Composed


class Experts(Composed):
    """Denoisers that take each other's place: at fractions of time up to until[k] the k-th one, else the last.

    Args:
        denoisers: for times from clean to noise; all take and give the same.
        until: where each but the last ends, rising: fractions, 0 clean and 1 noise.
        fraction: a time in the path's units -> its fraction.

    Raises:
        InputError: where they don't take and give the same.
    """

    def __init__(
        self, denoisers: Sequence[Denoiser], until: Sequence[float], fraction: Callable[[float], float]
    ) -> None:
        super().__init__(denoisers[-1], denoisers[-1].spec)
        for number, denoiser in enumerate(denoisers[:-1]):
            if denoiser.spec != self.spec:
                raise InputError(f"experts.{number}: expected a denoiser that takes {self.spec}, got {denoiser.spec}")
        self.denoisers, self.until, self.fraction = nn.ModuleList(denoisers), tuple(until), fraction

    @property
    def main(self) -> Denoiser:
        """The one for the noisiest times."""
        last = self.denoisers[-1]
        assert isinstance(last, Denoiser)
        return last

    def of(self, t: float) -> int:
        """The number of the denoiser that a time in the path's units belongs to."""
        fraction = self.fraction(t)
        return next((k for k, end in enumerate(self.until) if fraction <= end), len(self.until))

    def forward(self, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None = None) -> Tensor:
        """As a denoiser's; each row by the denoiser of its time. In sampling all rows have one time."""
        chosen = [self.of(float(time)) for time in t.tolist()]
        if len(set(chosen)) == 1:
            return self._call(chosen[0], z, t, conditions, options)
        found: list[Tensor] = [z] * len(chosen)
        for number in set(chosen):
            rows = torch.tensor([k for k, other in enumerate(chosen) if other == number], device=z.device)
            told = conditions.map(lambda value, rows=rows: value[rows])  # type: ignore[misc]
            made = self._call(number, z[rows], t[rows], told, options)
            for row, prediction in zip(rows.tolist(), made, strict=True):
                found[row] = prediction
        return torch.stack(found)

    def _call(
        self, number: int, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None
    ) -> Tensor:
        """The prediction of one denoiser, with a cache of its own."""
        if options is not None and options.cache is not None:
            options = replace(options, cache=options.cache.within(f"expert {number}"))
        return self.denoisers[number](z, t, conditions, options)
