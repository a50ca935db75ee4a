"""What every sampler takes and gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal, Protocol

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kinolab.config import Config
from kinolab.contracts.method import Denoise
from kinolab.contracts.method import Denoised as Denoised
from kinolab.diffusion.path import NoisePath, Spacing
from kinolab.diffusion.samplers.churn import ChurnConfig
from kinolab.errors import InputError
from kinolab.tables import SAMPLERS


class SamplerConfig(Config):
    """Which sampler, how many steps and where they lie."""

    name: str = "ddim"
    """Sampler: ddpm is stochastic, ddim by its eta, heun costs twice as much per step; each suits every schedule."""
    steps: int = Field(default=50, ge=1)
    """Number of steps; heun calls the denoiser twice in each but the last."""
    spacing: Spacing = "auto"
    """Where the steps of a discrete schedule lie: linspace (DiT, Latte), trailing, leading, or sd: leading and one step
    later, down to the least noise of training instead of none, as Stable Diffusion samples. auto is trailing for
    dpmpp_2m and for zero-terminal SNR, linspace otherwise and for heun. Rectified flow is even from 1 to 0, or with
    linspace as Stable Diffusion 3 samples: even from 1 to the least training time, and from there to 0. EDM has
    Karras's noise levels, with trailing the least one left out, and so for consistency."""
    eta: float = Field(default=0.0, ge=0.0, le=1.0)
    """ddim only: 0 is deterministic, 1 has the variance of ddpm."""
    variance: Literal["auto", "learned", "small", "large"] = "auto"
    """ddpm only: small is the posterior's, large is beta; auto is learned where the denoiser predicts it, else
    small."""
    gamma: float = Field(default=0.0, ge=0.0, le=1.0)
    """ddpm only: share of the way from small to large, of the log variance (Ho et al. 2022, Video Diffusion Models,
    eq. 4); with variance small, or auto of a denoiser that predicts none."""
    churn: ChurnConfig | None = None
    """euler and heun on schedules edm and flow: noise that is added before each step; none = deterministic."""
    shift: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    """consistency only: moves the few steps towards the noise, each fraction f of time to s f / (1 + (s - 1) f), on top
    of a shift that the schedule has; none = 1: where they lie."""

    @model_validator(mode="after")
    def _check(self) -> SamplerConfig:
        takes = sampler_of(self.name).fields
        if self.eta and "eta" not in takes:
            raise ValueError(f"eta is for the ddim sampler only, not {self.name}: leave it 0 or choose ddim")
        if self.variance != "auto" and "variance" not in takes:
            raise ValueError(f"variance is for the ddpm sampler only, not {self.name}: leave it auto or choose ddpm")
        if self.gamma and "gamma" not in takes:
            raise ValueError(f"gamma is for the ddpm sampler only, not {self.name}: leave it 0 or choose ddpm")
        if self.gamma and self.variance not in ("auto", "small"):
            raise ValueError(f"gamma lies between variance small and large: leave it 0 for {self.variance}")
        if self.churn is not None and "churn" not in takes:
            raise ValueError(f"churn is for the samplers euler and heun, not {self.name}: leave it out or choose one")
        if self.shift not in (None, 1.0) and "shift" not in takes:
            raise ValueError(f"shift is for the consistency sampler only, not {self.name}: leave it out")
        return self


Callback = Callable[[int, int, Tensor, Tensor], None]
"""callback(step, steps, z, denoised) after each step, counted from 1: the new z and the clean estimate it came from."""
AfterStep = Callable[[int, int, Tensor, Tensor], Tensor | None]
"""The same as samplers call it; what it gives back, if anything, takes the place of z (`continued`)."""


class SampleFunction(Protocol):
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
        callback: AfterStep | None = None,
    ) -> Tensor: ...


class Sampler:
    """What the table knows of a sampler beside its function."""

    sample: ClassVar[SampleFunction]
    spacing: ClassVar[Spacing | None] = None
    """What the spacing `auto` of a discrete schedule means for it; None = what the schedule says."""
    fields: ClassVar[tuple[str, ...]] = ()
    """The fields of `SamplerConfig` that it takes beside those that all take."""
    deterministic: ClassVar[bool] = True
    """Whether the same noise always becomes the same sample."""
    corrected: ClassVar[bool] = False
    """Whether z may be changed between two steps: its steps have no memory, and go on with what the callback gives."""
    keeps_noise: ClassVar[bool] = False
    """Whether it goes on with the noise that an estimate brings, where a method changed the sample alone."""
    calls: ClassVar[int] = 1
    """Calls of the denoiser in a step."""
    few_steps: ClassVar[bool] = False
    """Whether it is for few-step models alone, whose estimates are samples and not means of samples."""


def continued(callback: AfterStep | None, step: int, steps: int, z: Tensor, denoised: Tensor) -> Tensor:
    """Tell the callback of a step; z, or what the callback gives in its place."""
    other = None if callback is None else callback(step, steps, z, denoised)
    return z if other is None else other


def sampler_of(name: str) -> type[Sampler]:
    """The sampler of a name. Raises ValueError, as a config's check does, where there is none; lists the names."""
    try:
        return SAMPLERS.get(name)
    except InputError as error:
        raise ValueError(str(error)) from None


def draw_noise(z: Tensor, generator: torch.Generator | None) -> Tensor:
    """Unit Gaussian noise like `z`, drawn on the CPU so that every device gets the same."""
    return torch.randn(z.shape, generator=generator, dtype=z.dtype).to(z.device)
