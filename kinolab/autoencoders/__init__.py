"""Autoencoders: pixels <-> normalised latents. A new one is a file here and a line in `kinolab.tables`."""

from __future__ import annotations

from typing import Annotated

from kinolab.autoencoders.base import Autoencoder, AutoencoderSpec, Posterior
from kinolab.autoencoders.diffusers_adapter import DiffusersAutoencoder, DiffusersConfig
from kinolab.autoencoders.dpvae import DpVae, DpVaeConfig
from kinolab.autoencoders.image import ImageAutoencoder, ImageConfig
from kinolab.autoencoders.inflate import inflate, inflate_dpvae, inflate_taesd
from kinolab.autoencoders.odvae import OdVae, OdVaeConfig
from kinolab.autoencoders.pixel import PixelAutoencoder, PixelConfig
from kinolab.autoencoders.taesd import Taesd, TaesdConfig
from kinolab.autoencoders.tats import Tats, TatsConfig
from kinolab.autoencoders.temporal_decoder import TemporalDecoderAutoencoder, TemporalDecoderConfig
from kinolab.autoencoders.vqgan import Vqgan, VqganConfig
from kinolab.contracts.table import KindConfig
from kinolab.tables import AUTOENCODERS

AutoencoderConfig = Annotated[KindConfig, AUTOENCODERS.one_of()]
"""The config of any autoencoder."""


def build(config: KindConfig) -> Autoencoder:
    """The autoencoder of a config, with fresh weights (or those of the folder that a diffusers config names)."""
    return AUTOENCODERS.of(config)(config)


__all__ = [
    "AUTOENCODERS",
    "Autoencoder",
    "AutoencoderConfig",
    "AutoencoderSpec",
    "DiffusersAutoencoder",
    "DiffusersConfig",
    "DpVae",
    "DpVaeConfig",
    "ImageAutoencoder",
    "ImageConfig",
    "OdVae",
    "OdVaeConfig",
    "PixelAutoencoder",
    "PixelConfig",
    "Posterior",
    "Taesd",
    "TaesdConfig",
    "Tats",
    "TatsConfig",
    "TemporalDecoderAutoencoder",
    "TemporalDecoderConfig",
    "Vqgan",
    "VqganConfig",
    "build",
    "inflate",
    "inflate_dpvae",
    "inflate_taesd",
]
