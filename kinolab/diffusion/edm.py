"""EDM (Karras et al. 2022): continuous noise levels s = sigma / alpha, as a path, and its preconditioning by name.

EDM writes a noisy sample as y = x + s e, gives the network c_in y and reads its answer F as the clean estimate

    D = c_skip(s) y + c_out(s) F(c_in(s) y, c_noise(s))                                      (eq. 7)

Here the network's input is the path's own z = c_in y = alpha x + sigma e, with alpha = c_in and sigma = s c_in, so that
nothing has to be scaled beside the path and every sampler, loss and conversion of the house holds as it stands. The
rest of eq. 7 is then a type of prediction:

    edm   F, EDM's own, for data of deviation sigma_data: c_skip = sd^2 / (s^2 + sd^2), c_out = s sd / sqrt(s^2 + sd^2)
    v     Stable Video Diffusion's: c_skip = 1 / (s^2 + 1), c_out = -s / sqrt(s^2 + 1); at sigma_data 1 it is -F

and EDM's weight of the error of D, 1 / c_out^2, is weight 1 on the error of either: the loss `mse`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kinolab.config import Config
from kinolab.diffusion.path import NoisePath, Spacing
from kinolab.errors import InputError


class EdmConfig(Config):
    """Noise levels in sampling and training; the defaults are those of Stable Video Diffusion, image to video."""

    sigma_min: float = Field(default=0.002, gt=0.0)
    """The least noise level of sampling; from there the last step goes to 0."""
    sigma_max: float = Field(default=700.0, gt=0.0)
    """The noise level that sampling starts from; 80 in EDM."""
    rho: float = Field(default=7.0, gt=0.0)
    """How much closer the steps lie at small noise levels (eq. 5)."""
    sigma_data: float = Field(default=1.0, gt=0.0)
    """Standard deviation of the data; 0.5 in EDM, for pixels, and 1 for latents, which are normalised."""
    p_mean: float = 0.7
    """Mean of log s in training; -1.2 in EDM and at SVD's image stage, 1.0 for 25 frames, 0.5 for text to video."""
    p_std: float = Field(default=1.6, gt=0.0)
    """Standard deviation of log s in training; 1.2 in EDM, 1 at SVD's image stage, 1.4 for text to video."""

    @model_validator(mode="after")
    def _check(self) -> EdmConfig:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"expected sigma_min below sigma_max, got {self.sigma_min:g} and {self.sigma_max:g}")
        return self


class EdmPath(NoisePath):
    """z = (x + s e) / sqrt(s^2 + sigma_data^2), at times c_noise = log(s) / 4, what networks of EDM are told.

    The clean sample stands at minus infinity. Training times are log-normal: log s ~ N(p_mean, p_std^2).
    """

    clean_time = -math.inf

    def __init__(self, config: EdmConfig | None = None) -> None:
        self.config = config if config is not None else EdmConfig()

    def alpha_sigma(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        s = noise_level(torch.as_tensor(t, dtype=torch.float64).detach().cpu())
        alpha = (s.square() + self.config.sigma_data**2).rsqrt()
        return alpha, s * alpha

    def times(self, steps: int, spacing: Spacing = "auto") -> Tensor:
        if steps < 1:
            raise InputError(f"expected at least 1 step, got {steps}")
        if spacing not in ("auto", "trailing"):
            raise InputError(f"spacing {spacing}: an EDM schedule has Karras's noise levels (rho); leave spacing auto")
        # Trailing: without the least level, from which nothing is left to be done in a step (few-step models).
        levels = karras_levels(steps, self.config) if spacing == "auto" else karras_levels(steps + 1, self.config)[:-1]
        return torch.cat([c_noise(levels), levels.new_full((1,), self.clean_time)])

    def fraction(self, t: float) -> float:
        # Along Karras's grid, so that a share of the fractions is the same share of a sampler's steps.
        low, high = self._ends
        return (float(noise_level(torch.tensor(t, dtype=torch.float64))) ** (1 / self.config.rho) - low) / (high - low)

    def at_fraction(self, fraction: Tensor) -> Tensor:
        low, high = self._ends
        return c_noise((low + fraction.double() * (high - low)).pow(self.config.rho))

    def warp(self, uniform: Tensor) -> Tensor:
        # Draws of exactly 0 or 1 would be infinite levels; nothing is lost, since one in a billion is 6 deviations off.
        normal = torch.special.ndtri(uniform.double().clamp(1e-9, 1.0 - 1e-9))
        return (self.config.p_mean + self.config.p_std * normal) / 4

    def line(self, t: float) -> tuple[float, float]:
        # y = z / alpha = x + s e moves along s with slope e: the coordinates of Karras's Heun (algorithm 1).
        alpha, sigma = self.scalars(t)
        return alpha, sigma / alpha

    def slope(self, sample: Tensor, noise: Tensor) -> Tensor:
        return noise

    def at_level(self, level: float) -> float:
        return math.log(level) / 4

    @property
    def _ends(self) -> tuple[float, float]:
        return self.config.sigma_min ** (1 / self.config.rho), self.config.sigma_max ** (1 / self.config.rho)


def noise_level(t: Tensor) -> Tensor:
    """s at times c_noise = log(s) / 4, of the same shape and type."""
    return torch.exp(4 * t)


def c_noise(s: Tensor) -> Tensor:
    """What the network is told of noise levels s (table 1)."""
    return torch.log(s) / 4


def karras_levels(steps: int, config: EdmConfig) -> Tensor:
    """The (steps,) falling noise levels of eq. 5, float64: even in s^(1 / rho) from sigma_max to sigma_min."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    high, low = config.sigma_max ** (1 / config.rho), config.sigma_min ** (1 / config.rho)
    return (high + ramp * (low - high)).pow(config.rho)


@dataclass(frozen=True)
class Preconditioning:
    """D = c_skip y + c_out F(c_in y, c_noise) for y = x + s e, and the weight of the error of D; all like s."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor
    weight: Tensor


def preconditioning(s: Tensor, *, sigma_data: float = 1.0, v: bool = False) -> Preconditioning:
    """EDM's factors at noise levels s (table 1), or with `v` those of Stable Video Diffusion (sigma_data 1).

    The weight is 1 / c_out^2: then all noise levels count alike at the start of training (appendix B.6).
    """
    total = s.square() + sigma_data**2
    c_out = s * sigma_data * total.rsqrt()
    c_out = -c_out if v else c_out
    return Preconditioning(sigma_data**2 / total, c_out, total.rsqrt(), c_noise(s), c_out.square().reciprocal())
