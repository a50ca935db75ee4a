"""Denoisers: noisy latents (B, C, T, H, W), times and conditions -> prediction. One file per published architecture.

To add one: a file here with a config (its `kind` is the table's key) and a class, and a line in each table below.
"""

from __future__ import annotations

from kinolab.denoisers.base import Conditions, Denoiser, DenoiserSpec
from kinolab.denoisers.latte import Latte, LatteConfig

DENOISERS: dict[str, type[Latte]] = {"latte": Latte}
"""Name (a config's `kind`) -> class."""

DenoiserConfig = LatteConfig
"""The config of any denoiser, told apart by `kind`."""


def build(config: DenoiserConfig) -> Denoiser:
    """A freshly initialised denoiser for its config."""
    return DENOISERS[config.kind](config)


__all__ = ["DENOISERS", "Conditions", "Denoiser", "DenoiserConfig", "DenoiserSpec", "Latte", "LatteConfig", "build"]
