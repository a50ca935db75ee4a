"""The samplers, one file each: pure functions from noise to a sample."""

from kinolab.diffusion.samplers import ddim, ddpm, dpmpp_2m, euler, heun
from kinolab.diffusion.samplers.base import PREFERRED_SPACING, Callback, Denoise, Denoised, Sampler, SamplerConfig

SAMPLERS: dict[str, Sampler] = {
    "ddpm": ddpm.sample,
    "ddim": ddim.sample,
    "dpmpp_2m": dpmpp_2m.sample,
    "euler": euler.sample,
    "heun": heun.sample,
}

__all__ = ["PREFERRED_SPACING", "SAMPLERS", "Callback", "Denoise", "Denoised", "Sampler", "SamplerConfig"]
