"""Autoencoders: pixels <-> normalised latents. A new one is a file here and a line in `AUTOENCODERS`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kinolab.autoencoders.base import Autoencoder, AutoencoderSpec, Posterior
from kinolab.autoencoders.diffusers_adapter import DiffusersAutoencoder, DiffusersConfig
from kinolab.autoencoders.dpvae import DpVae, DpVaeConfig
from kinolab.autoencoders.image import ImageAutoencoder, ImageConfig
from kinolab.autoencoders.inflate import inflate, inflate_dpvae
from kinolab.autoencoders.odvae import OdVae, OdVaeConfig
from kinolab.autoencoders.tats import Tats, TatsConfig
from kinolab.autoencoders.vqgan import Vqgan, VqganConfig

AUTOENCODERS: dict[str, type[Autoencoder]] = {
    "image": ImageAutoencoder,
    "odvae": OdVae,
    "dpvae": DpVae,
    "vqgan": Vqgan,
    "tats": Tats,
    "diffusers": DiffusersAutoencoder,
}

AnyConfig = ImageConfig | OdVaeConfig | DpVaeConfig | VqganConfig | TatsConfig | DiffusersConfig
AutoencoderConfig = Annotated[AnyConfig, Field(discriminator="kind")]


def build(config: AnyConfig) -> Autoencoder:
    """The autoencoder of a config, with fresh weights (or those of the folder that a diffusers config names)."""
    return AUTOENCODERS[config.kind](config)


__all__ = [
    "AUTOENCODERS",
    "AnyConfig",
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
    "Posterior",
    "Tats",
    "TatsConfig",
    "Vqgan",
    "VqganConfig",
    "build",
    "inflate",
    "inflate_dpvae",
]
