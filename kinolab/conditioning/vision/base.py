"""What every image encoder takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from kinolab.contracts.table import KindConfig


class ImageEncoder:
    """Base of the image encoders: frozen, read at first use."""

    Config: ClassVar[type[KindConfig]]
    config: Any
    imagines: ClassVar[bool] = False
    """Whether it has a prior, which makes embeddings of prompts."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def dim(self) -> int:
        """Width D of a token."""
        raise NotImplementedError

    def to(self, device: torch.device | str) -> ImageEncoder:
        """Where to compute. Returns itself."""
        return self

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], of any size -> tokens (B, L, D), float32.

        Raises:
            InputError: where the weights can't be read.
        """
        raise NotImplementedError

    def imagine(self, prompts: Sequence[str], sources: Sequence[torch.Generator]) -> Tensor:
        """Prompts -> embeddings (B, D) of pictures that they might describe, float32; each by its own generator.

        Raises:
            InputError: where the weights can't be read.
        """
        raise NotImplementedError
