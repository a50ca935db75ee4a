"""Inversion: the noise that a clip comes from, by the sampler's own steps backwards (DDIM: Song et al. 2021, sec. 4.3).

A step of DDIM or Euler from time t down to s moves along the line of the path, y = z / n, by the slope at t:

    z_s / n_s = z_t / n_t + (tau_s - tau_t) slope(z_t, t)

Its reverse asks for the slope at the noisy z_t that it looks for. The first guess shows the network z_s, told the time
t that the step goes to, as the references do (Tune-A-Video, diffusers' DDIMInverseScheduler); a predicted noise moves
z_s as theirs does, every other prediction is read at t, as the sampler reads it. That is of first order in the step.
Fixed-point iterations (Pan et al. 2023, arXiv:2309.04907; Garibi et al. 2024, ReNoise, arXiv:2403.14602) then show it
what the step came to, and end at the z_t from which the sampler's step leads back to z_s exactly.

A run may also begin in the middle: with strength 0.6 the last 60% of its steps are made, from the clip noised that far
(SDEdit, Meng et al. 2022, arXiv:2108.01073) or inverted that far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kinolab.config import Config as BaseConfig
from kinolab.contracts.method import Denoise, Method, Run, Walk
from kinolab.diffusion.conversions import noise_to_sample, sample_to_noise
from kinolab.diffusion.diffusion import Diffusion
from kinolab.diffusion.run import wrapped_estimate
from kinolab.errors import InputError

Way = Literal["invert", "noise"]
NOT_INVERTED = ("guidance", "cache", "source")
"""Methods of these fields of a request are of the way down alone: the clip is inverted without guidance (with it the
iterations hardly come to an end), and a cache counts the steps of one walk."""


class InversionConfig(BaseConfig):
    """How the noise that a run begins with is made of a clip."""

    way: Way = "invert"
    """invert: the noise that the clip comes from, by the sampler's steps backwards; noise: noise is added to it, as
    SDEdit does."""
    strength: float = Field(default=1.0, gt=0, le=1)
    """The share of the steps that is made, the last ones: less keeps more of the clip. Noise of strength 1 keeps none
    of it."""
    refine: int = Field(default=0, ge=0, le=100)
    """invert: fixed-point iterations of every step, each a call of the denoiser; more come back to the clip more
    exactly."""

    @model_validator(mode="after")
    def _check(self) -> InversionConfig:
        if self.way == "noise" and self.refine:
            raise ValueError("refine is for way invert: adding noise has nothing to iterate")
        return self


class Inversion(Method):
    """Begins a run with the noise that a clip comes from, or with the clip noised.

    Args:
        clean: latents (1 or B, C, T, H, W) of the clip.
        conditions: what the denoiser is told on the way to the noise, one row per row of `clean`.
        diffusion: the run's.
        progress: called as progress(step, steps) after each step of the inversion, counted from 1; may stop it by
            raising.
    """

    Config: ClassVar[type[BaseConfig]] = InversionConfig
    option = "source"
    whole_clips = True
    config: InversionConfig

    def __init__(
        self,
        config: InversionConfig | None = None,
        *,
        clean: Tensor,
        conditions: Any,
        diffusion: Diffusion,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        super().__init__(config)
        self.clean, self.conditions, self.diffusion, self.progress = clean, conditions, diffusion, progress

    def check(self, run: Run) -> None:
        """Raises InputError for a clip of another shape, and beside another method that says what a run begins with."""
        rows, *shape = self.clean.shape
        if rows not in (1, run.shape[0]) or tuple(shape) != tuple(run.shape[1:]):
            raise InputError(
                f"source: expected latents of 1 or {run.shape[0]} clips of {tuple(run.shape[1:])}, got "
                f"{tuple(self.clean.shape)}"
            )
        others = [m for m in run.methods if m is not self and "start" in m.decides]
        if others and self.config.way == "invert":
            name = type(others[0]).__name__
            raise InputError(f"source: the clip's own noise takes the place of that of {name}: leave one of them out")

    def started(self, z: Tensor, run: Run) -> Tensor:
        """The clip at the time that the run's steps begin at: inverted up to there, or noised by z."""
        times = begun(run.times, self.config.strength)
        if self.config.way == "noise":
            alpha, sigma = run.path.scalars(float(times[0]))
            return alpha * self.clean.to(z) + sigma * z
        noisy = clean_latents(self.clean.to(z), self.diffusion)
        for step, reached in enumerate(self.inverted(noisy, run, times), 1):
            noisy = reached
            if self.progress is not None:
                self.progress(step, len(times) - 1)
        return noisy.expand_as(z).clone()

    def inverted(self, clean: Tensor, run: Run, times: Tensor) -> Iterator[Tensor]:
        """The latents after each step from the cleanest of falling `times` to the noisiest, as the run's network and
        the methods that change what it predicts see them.

        clean: (1 or B, C, T, H, W) at times[-1].
        """
        kept = [m for m in run.methods if type(m).option not in NOT_INVERTED and not m.follows_gradient]
        up = Run(
            run.denoiser, self.conditions, tuple(clean.shape), len(times) - 1, run.path, kept, times=times,
            codec=run.codec, backwards=True,
        )  # fmt: skip
        return invert(wrapped_estimate(self.diffusion, up), clean, times, self.diffusion, self.config.refine)

    def walked(self, inner: Walk, estimate: Denoise, run: Run) -> Walk:
        """The walk without the steps that lie before the noise it begins with."""
        first = float(begun(run.times, self.config.strength)[0])

        def walk(z: Tensor, times: Tensor) -> Tensor:
            rest = times[times <= first]
            if run.planned is None:  # progress is told of the steps that are made
                run.planned = len(rest) - 1
            return inner(z, rest) if len(rest) > 1 else z

        return walk


def begun(times: Tensor, strength: float) -> Tensor:
    """Of a run's (steps + 1,) falling times those that the last `strength` of its steps lie between, at least one."""
    steps = len(times) - 1
    return times[steps - max(1, round(strength * steps)) :]


def clean_latents(latents: Tensor, diffusion: Diffusion) -> Tensor:
    """Latents as they leave an encoder -> z of the path's clean time, which EDM divides by the data's deviation."""
    return latents * diffusion.path.scalars(diffusion.path.clean_time)[0]


def invert(denoise: Denoise, clean: Tensor, times: Tensor, diffusion: Diffusion, refine: int = 0) -> Iterator[Tensor]:
    """z after each step of the sampler backwards: from `clean` at times[-1] to the noise at times[0].

    Args:
        denoise: the estimate of the clean sample (`kinolab.contracts.method.Denoise`).
        clean: (B, C, T, H, W); where times[-1] is not the path's clean time, latents of that little noise, as
            Stable Diffusion's last step takes them.
        times: (steps + 1,) falling, as the sampler comes by.
        refine: fixed-point iterations of each step; those of a clip end where they lead away.
    """
    path, z = diffusion.path, clean
    for i in range(len(times) - 2, -1, -1):
        t, s = float(times[i]), float(times[i + 1])
        (n_t, tau_t), (n_s, tau_s) = path.line(t), path.line(s)
        reached, moved = z, torch.full((len(z),), math.inf, device=z.device, dtype=z.dtype)
        for _ in range(1 + refine):
            x = denoise(reached, t).sample
            e = sample_to_noise(x, reached, *path.scalars(t))
            if diffusion.config.prediction == "noise":
                # Of z_s for this noise: of a noisy z_t it would be e's error over alpha_t, and no iteration would end.
                x = noise_to_sample(e, z, *path.scalars(s))
            other = n_t * (z / n_s + (tau_t - tau_s) * path.slope(x, e))
            # A clip whose steps grow is not coming to an end: it stays where it is.
            far = (other - reached).flatten(1).norm(dim=1)
            nearer = far < moved
            reached = torch.where(nearer.view(-1, 1, 1, 1, 1), other, reached)
            moved = torch.where(nearer, far, 0.0)
        z = reached
        yield z
