"""The samplers, one file each: pure functions from noise to a sample, and what the table knows of them."""

from kinolab.diffusion.samplers.base import Callback, Denoise, Denoised, Sampler, SamplerConfig
from kinolab.tables import SAMPLERS

__all__ = ["SAMPLERS", "Callback", "Denoise", "Denoised", "Sampler", "SamplerConfig"]
