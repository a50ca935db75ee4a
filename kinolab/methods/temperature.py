"""Noise of less spread at the start of a run, put back whole once what is most uncertain is decided.

What a model does not know well it draws with a spread that is its own ignorance rather than the data's; a run that
begins with noise of a lower temperature stays nearer to the middle of what it expects (Kingma & Dhariwal 2018, Glow,
section 5; the truncated noise of Brock et al. 2019, BigGAN, section 3.1). To the end of a run that costs detail, which
low noise decides. So the part of the noise that was left out at the start,

    z <- z + (1 - noise) sigma_s z0

is put back at a time s of the run (`until`), z0 being the unit noise of the clip's own seed: what is decided above s,
such as where things are, is decided calmly, and what is decided below it, such as shapes, with all its noise. No call
of the denoiser and no draw is added.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from kinolab.config import Config as BaseConfig
from kinolab.contracts.method import Denoise, Method, Run, Walk
from kinolab.errors import InputError
from kinolab.methods.inversion import Inversion


class TemperatureConfig(BaseConfig):
    """How much of its noise a run begins with, and when it gets the rest."""

    noise: float = Field(gt=0, le=1)
    """The standard deviation of the noise that a run begins with; 1 = as trained."""
    until: float = Field(0.0, ge=0, lt=1)
    """The share of time (1 noise, 0 clean) at which the rest is put back, at the first step that is no noisier; 0 =
    never."""
    when: Literal["always", "given"] = "always"
    """given: only where the denoiser is told a part of the clip, as in predictions, which leave less open."""


class Temperature(Method):
    """Begins a run with less noise than was trained, and puts the rest back on the way."""

    Config: ClassVar[type[BaseConfig]] = TemperatureConfig
    of_students = False  # of few steps, the first of which learned to begin with all of the noise
    config: TemperatureConfig

    def __init__(self, config: TemperatureConfig) -> None:
        super().__init__(config)
        self.decides = ("start",) if config.when == "always" else ()

    def check(self, run: Run) -> None:
        """Raises InputError where the noise of this run is a clip's own, or another method's, of which no part may be
        left out."""
        others = [m for m in run.methods if m is not self and (isinstance(m, Inversion) or "start" in m.decides)]
        if others and self._wraps(run):
            name = type(others[0]).__name__
            raise InputError(f"temperature: {name} says with which noise the run begins: leave one of them out")

    def started(self, z: Tensor, run: Run) -> Tensor:
        """The noise z (B, C, T, H, W) with the spread that is asked for."""
        return self.config.noise * z if self._wraps(run) else z

    def walked(self, inner: Walk, estimate: Denoise, run: Run) -> Walk:
        """The same walk, in two parts where the rest of the noise is put back between them; samplers of several steps
        begin anew there."""

        def walk(z: Tensor, times: Tensor) -> Tensor:
            until = self.config.until
            if not self._wraps(run) or not until or float(times[0]) != float(run.times[0]):
                return inner(z, times)
            behind = next((k for k, t in enumerate(times) if run.path.fraction(float(t)) <= until), len(times) - 1)
            if not 0 < behind < len(times) - 1:  # at the start, or nothing is left to be decided
                return inner(z / self.config.noise if behind == 0 else z, times)
            rest = (1 / self.config.noise - 1) * z
            z = inner(z, times[: behind + 1])
            return inner(z + run.path.scalars(float(times[behind]))[1] * rest, times[behind:])

        return walk

    def _wraps(self, run: Run) -> bool:
        return not run.backwards and (self.config.when == "always" or "given" in run.conditions)
