"""Autoencoders: pixels <-> normalised latents. A new one is a file here and a line in `AUTOENCODERS`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kinolab.autoencoders.base import Autoencoder, AutoencoderSpec, Posterior
from kinolab.autoencoders.image import ImageAutoencoder, ImageConfig
from kinolab.autoencoders.inflate import inflate
from kinolab.autoencoders.odvae import OdVae, OdVaeConfig

AUTOENCODERS: dict[str, type[ImageAutoencoder] | type[OdVae]] = {"image": ImageAutoencoder, "odvae": OdVae}

AutoencoderConfig = Annotated[ImageConfig | OdVaeConfig, Field(discriminator="kind")]


def build(config: ImageConfig | OdVaeConfig) -> Autoencoder:
    """The autoencoder of a config, with fresh weights."""
    model: Autoencoder = AUTOENCODERS[config.kind](config)  # type: ignore[arg-type]
    return model


__all__ = [
    "AUTOENCODERS",
    "Autoencoder",
    "AutoencoderConfig",
    "AutoencoderSpec",
    "ImageAutoencoder",
    "ImageConfig",
    "OdVae",
    "OdVaeConfig",
    "Posterior",
    "build",
    "inflate",
]
