"""What makes a control map: a clip of pixels in, a clip of pixels out."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from kinolab.contracts.table import KindConfig


class ControlMap:
    """Base of the maps. The same map is made of a training clip and of one that a request names."""

    Config: ClassVar[type[KindConfig]]

    def __init__(self, config: Any = None) -> None:
        self.config = self.Config.model_validate({}) if config is None else config

    def make(self, clip: Tensor) -> Tensor:
        """A clip (3, T, H, W) in [-1, 1] -> its map of the same shape and range.

        Raises:
            InputError: for a clip that no such map can be made of, and where a package or file is missing.
        """
        raise NotImplementedError


def to_frames(clip: Tensor) -> np.ndarray:
    """A clip (3, T, H, W) in [-1, 1] -> frames (T, H, W, 3) uint8."""
    grey = ((clip.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return grey.permute(1, 2, 3, 0).contiguous().cpu().numpy()


def from_frames(frames: np.ndarray, like: Tensor) -> Tensor:
    """Frames (T, H, W, 3) or (T, H, W) in [0, 1] -> a clip (3, T, H, W) in [-1, 1], on the device of another."""
    values = torch.from_numpy(np.ascontiguousarray(frames, np.float32)).to(like.device) * 2 - 1
    if values.ndim == 3:
        return values.expand(3, *values.shape).contiguous()
    return values.permute(3, 0, 1, 2).contiguous()
