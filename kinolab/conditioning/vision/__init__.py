"""Image encoders: a picture -> the tokens that denoisers attend to. One file per family, one line in the table."""

from __future__ import annotations

from typing import Annotated

from kinolab.conditioning.vision.base import ImageEncoder
from kinolab.conditioning.vision.clip import ClipImage, ClipImageConfig
from kinolab.conditioning.vision.contrastive import Contrastive, ContrastiveConfig
from kinolab.conditioning.vision.thumbnail import Thumbnail, ThumbnailConfig
from kinolab.contracts.table import KindConfig
from kinolab.tables import IMAGE_ENCODERS

ImageEncoderConfig = Annotated[KindConfig, IMAGE_ENCODERS.one_of()]
"""The config of any image encoder."""


def build(config: KindConfig | None) -> ImageEncoder | None:
    """The image encoder for its config, or none; weights are read at the first picture."""
    return None if config is None else IMAGE_ENCODERS.of(config)(config)


__all__ = [
    "IMAGE_ENCODERS",
    "ClipImage",
    "ClipImageConfig",
    "Contrastive",
    "ContrastiveConfig",
    "ImageEncoder",
    "ImageEncoderConfig",
    "Thumbnail",
    "ThumbnailConfig",
    "build",
]
