"""A picture shrunk to a few pixels as one token: an image encoder without weights, for small models.

It tells where which colour is, as an image encoder's token tells what there is, and costs nothing.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kinolab.conditioning.vision.base import ImageEncoder
from kinolab.contracts.table import KindConfig


class ThumbnailConfig(KindConfig):
    """A picture's few pixels as one token."""

    kind: Literal["thumbnail"] = "thumbnail"
    side: int = Field(8, ge=1)
    """Side in pixels; the token has 3 * side^2 numbers."""


class Thumbnail(ImageEncoder):
    """Averages over squares of the picture, in [-1, 1]."""

    Config = ThumbnailConfig
    config: ThumbnailConfig

    @property
    def dim(self) -> int:
        """Width of the token."""
        return 3 * self.config.side**2

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) -> (B, 1, 3 * side^2)."""
        return F.adaptive_avg_pool2d(pictures.float(), self.config.side).flatten(1)[:, None]
