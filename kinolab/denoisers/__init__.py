"""Denoisers: noisy latents (B, C, T, H, W), times and conditions -> prediction. One file per published architecture.

To add one: a file here with a config (its `kind` is the table's key) and a class, and a line in `kinolab.tables`.
"""

from __future__ import annotations

from typing import Annotated

from kinolab.denoisers.animatediff import AnimateDiff, AnimateDiffConfig, MotionConfig, MotionModules
from kinolab.denoisers.base import BaseDenoiserConfig, Conditions, Denoiser, DenoiserSpec
from kinolab.denoisers.dit import DiT, DiTConfig
from kinolab.denoisers.imagen_video import ImagenVideo, ImagenVideoConfig
from kinolab.denoisers.latte import Latte, LatteConfig
from kinolab.denoisers.makeavideo import MakeAVideo, MakeAVideoConfig
from kinolab.denoisers.mmdit import Mmdit, MmditConfig
from kinolab.denoisers.modelscope import ModelScope, ModelScopeConfig
from kinolab.denoisers.space_time_unet import SpaceTimeUnet, SpaceTimeUnetConfig
from kinolab.denoisers.svd import Svd, SvdConfig
from kinolab.denoisers.tuneavideo import TuneAVideo, TuneAVideoConfig
from kinolab.denoisers.unet import Unet, UnetConfig
from kinolab.denoisers.vdm import Vdm, VdmConfig
from kinolab.denoisers.vdt import Vdt, VdtConfig
from kinolab.denoisers.video_ldm import VideoLdm, VideoLdmConfig
from kinolab.tables import DENOISERS

DenoiserConfig = Annotated[BaseDenoiserConfig, DENOISERS.one_of()]
"""The config of any denoiser."""


def build(config: BaseDenoiserConfig) -> Denoiser:
    """A freshly initialised denoiser for its config."""
    return DENOISERS.of(config)(config)


__all__ = [
    "DENOISERS",
    "AnimateDiff",
    "AnimateDiffConfig",
    "BaseDenoiserConfig",
    "Conditions",
    "Denoiser",
    "DenoiserConfig",
    "DenoiserSpec",
    "DiT",
    "DiTConfig",
    "ImagenVideo",
    "ImagenVideoConfig",
    "Latte",
    "LatteConfig",
    "MakeAVideo",
    "MakeAVideoConfig",
    "Mmdit",
    "MmditConfig",
    "ModelScope",
    "ModelScopeConfig",
    "MotionConfig",
    "MotionModules",
    "SpaceTimeUnet",
    "SpaceTimeUnetConfig",
    "Svd",
    "SvdConfig",
    "TuneAVideo",
    "TuneAVideoConfig",
    "Unet",
    "UnetConfig",
    "Vdm",
    "VdmConfig",
    "Vdt",
    "VdtConfig",
    "VideoLdm",
    "VideoLdmConfig",
    "build",
]
