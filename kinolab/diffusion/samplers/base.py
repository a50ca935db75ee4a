"""What every sampler takes and gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kinolab.config import Config
from kinolab.contracts.method import Denoise
from kinolab.contracts.method import Denoised as Denoised
from kinolab.diffusion.path import NoisePath, Spacing

SamplerName = Literal["ddpm", "ddim", "dpmpp_2m", "euler", "heun"]


PREFERRED_SPACING: dict[str, Spacing] = {"dpmpp_2m": "trailing", "heun": "linspace"}
"""What spacing "auto" means where the sampler decides: on a Gaussian target at 50 steps of the linear schedule, 2M
errs 20 times less with trailing (its last steps are then of like length in log SNR), Heun 50 times less with linspace
(its last step, of first order, is then the shortest)."""


class SamplerConfig(Config):
    """Which sampler, how many steps and where they lie."""

    name: SamplerName = "ddim"
    """Sampler: ddpm is stochastic, ddim by its eta, heun costs twice as much per step; each suits every schedule."""
    steps: int = Field(default=50, ge=1)
    """Number of steps; heun calls the denoiser twice in each but the last."""
    spacing: Spacing = "auto"
    """Where the steps of a discrete schedule lie: linspace (DiT, Latte), trailing or leading. auto is trailing for
    dpmpp_2m and for zero-terminal SNR, linspace otherwise and for heun. Rectified flow is even from 1 to 0, or with
    linspace as Stable Diffusion 3 samples: even from 1 to the least training time, and from there to 0."""
    eta: float = Field(default=0.0, ge=0.0, le=1.0)
    """ddim only: 0 is deterministic, 1 has the variance of ddpm."""
    variance: Literal["auto", "learned", "small", "large"] = "auto"
    """ddpm only: small is the posterior's, large is beta; auto is learned where the denoiser predicts it, else
    small."""

    @model_validator(mode="after")
    def _check(self) -> SamplerConfig:
        if self.eta and self.name != "ddim":
            raise ValueError(f"eta is for the ddim sampler only, not {self.name}: leave it 0 or choose ddim")
        if self.variance != "auto" and self.name != "ddpm":
            raise ValueError(f"variance is for the ddpm sampler only, not {self.name}: leave it auto or choose ddpm")
        return self


Callback = Callable[[int, int, Tensor, Tensor], None]
"""callback(step, steps, z, denoised) after each step, counted from 1: the new z and the clean estimate it came from."""


class Sampler(Protocol):
    """A pure function from noise at times[0] to a sample at times[-1]."""

    def __call__(
        self,
        denoise: Denoise,
        z: Tensor,
        times: Tensor,
        *,
        path: NoisePath,
        config: SamplerConfig,
        generator: torch.Generator | None = None,
        callback: Callback | None = None,
    ) -> Tensor: ...


def draw_noise(z: Tensor, generator: torch.Generator | None) -> Tensor:
    """Unit Gaussian noise like `z`, drawn on the CPU so that every device gets the same."""
    return torch.randn(z.shape, generator=generator, dtype=z.dtype).to(z.device)
