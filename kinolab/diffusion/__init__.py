"""Noise paths, prediction types, losses and samplers."""

from kinolab.diffusion.diffusion import Diffusion, DiffusionConfig, NonFiniteError
from kinolab.diffusion.samplers import SAMPLERS, Denoised, SamplerConfig

__all__ = [
    "SAMPLERS",
    "Denoised",
    "Diffusion",
    "DiffusionConfig",
    "NonFiniteError",
    "SamplerConfig",
]
