"""Noise paths, prediction types, losses, guidance and samplers."""

from kinolab.diffusion.diffusion import Diffusion, DiffusionConfig, NonFiniteError
from kinolab.diffusion.given import Steering, SteeringConfig
from kinolab.diffusion.guidance import GuidanceConfig
from kinolab.diffusion.samplers import SAMPLERS, Denoised, SamplerConfig

__all__ = [
    "SAMPLERS",
    "Denoised",
    "Diffusion",
    "DiffusionConfig",
    "GuidanceConfig",
    "NonFiniteError",
    "SamplerConfig",
    "Steering",
    "SteeringConfig",
]
