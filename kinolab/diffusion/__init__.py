"""Noise paths, prediction types, losses and samplers."""

from kinolab.diffusion.diffusion import Diffusion, DiffusionConfig
from kinolab.diffusion.samplers import SAMPLERS, Denoised, SamplerConfig
from kinolab.runtime.precision import NonFiniteError

__all__ = [
    "SAMPLERS",
    "Denoised",
    "Diffusion",
    "DiffusionConfig",
    "NonFiniteError",
    "SamplerConfig",
]
