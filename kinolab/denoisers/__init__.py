"""Denoisers: noisy latents (B, C, T, H, W), times and conditions -> prediction. One file per published architecture.

To add one: a file here with a config (its `kind` is the table's key) and a class, and a line in each table below.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kinolab.denoisers.base import Conditions, Denoiser, DenoiserSpec
from kinolab.denoisers.dit import DiT, DiTConfig
from kinolab.denoisers.latte import Latte, LatteConfig
from kinolab.denoisers.mmdit import Mmdit, MmditConfig
from kinolab.denoisers.vdt import Vdt, VdtConfig

DENOISERS: dict[str, type[Latte] | type[DiT] | type[Vdt] | type[Mmdit]] = {
    "latte": Latte,
    "dit": DiT,
    "vdt": Vdt,
    "mmdit": Mmdit,
}
"""Name (a config's `kind`) -> class."""

AnyConfig = LatteConfig | DiTConfig | VdtConfig | MmditConfig
DenoiserConfig = Annotated[AnyConfig, Field(discriminator="kind")]
"""The config of any denoiser, told apart by `kind`."""


def build(config: AnyConfig) -> Denoiser:
    """A freshly initialised denoiser for its config."""
    return DENOISERS[config.kind](config)  # type: ignore[arg-type]


__all__ = [
    "DENOISERS",
    "AnyConfig",
    "Conditions",
    "Denoiser",
    "DenoiserConfig",
    "DenoiserSpec",
    "DiT",
    "DiTConfig",
    "Latte",
    "LatteConfig",
    "Mmdit",
    "MmditConfig",
    "Vdt",
    "VdtConfig",
    "build",
]
