"""Maps by a network of the user's own: an ONNX file for depth, poses, edges or what a control network was trained on.

The file is run by onnxruntime on the CPU. It takes pictures (N, 3, h, w) and gives one channel or three.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kinolab.conditioning.maps.base import ControlMap
from kinolab.contracts.table import KindConfig
from kinolab.errors import InputError, MissingExtraError

Triple = tuple[float, float, float]


class OnnxConfig(KindConfig):
    """The file, what it is shown, and how its output becomes grey values or colours."""

    kind: Literal["onnx"] = "onnx"
    file: Path
    """The network, an .onnx file."""
    side: int | None = Field(None, ge=1)
    """Side of the squares that frames are resized to for it; none = as the file says, else the frames' own size."""
    mean: Triple = (0.485, 0.456, 0.406)
    """Subtracted from pixels in [0, 1]: those of ImageNet, as most networks of depth take."""
    std: Triple = (0.229, 0.224, 0.225)
    """What the rest is divided by."""
    values: Literal["clip", "unit", "signed"] = "clip"
    """The output's range: stretched so that a clip's least value is black and its largest white (depth), or from 0 to
    1, or from -1 to 1."""
    invert: bool = False
    """Swap black and white: for depth that grows with the distance, as near is white in ControlNet's maps."""


class Onnx(ControlMap):
    """What a network makes of every frame.

    Raises:
        InputError: where the file is missing or no such network, or onnxruntime is.
    """

    Config = OnnxConfig
    config: OnnxConfig

    @cached_property
    def session(self) -> Any:
        """The network, read once."""
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError("onnxruntime", "maps", "maps by an ONNX file") from None
        if not self.config.file.is_file():
            raise InputError(f"{self.config.file}: no such file; expected a network as .onnx")
        try:
            return onnxruntime.InferenceSession(str(self.config.file), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class of its own for each way to be broken
            raise InputError(f"{self.config.file}: not a network that onnxruntime reads: {error}") from None

    def make(self, clip: Tensor) -> Tensor:
        """The network's maps (3, T, H, W), resized to the frames."""
        c, session = self.config, self.session
        told = session.get_inputs()[0]
        side = c.side or next((d for d in told.shape[-1:] if isinstance(d, int)), None)
        pictures = (clip.detach().float().cpu().transpose(0, 1) + 1) / 2  # (T, 3, H, W)
        shown = pictures if side is None else F.interpolate(pictures, (side, side), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (c.mean, c.std))
        shown = (shown - mean) / std
        made = [self._run(told.name, shown[k : k + 1].numpy()) for k in range(len(shown))]
        maps = F.interpolate(torch.from_numpy(np.concatenate(made)), clip.shape[2:], mode="bilinear")
        if c.values == "clip":
            low, high = maps.min(), maps.max()
            maps = (maps - low) / (high - low).clamp(min=1e-12)
        elif c.values == "signed":
            maps = (maps + 1) / 2
        maps = 1 - maps if c.invert else maps
        return (2 * maps.clamp(0, 1) - 1).expand(-1, 3, -1, -1).transpose(0, 1).to(clip)

    def _run(self, name: str, picture: np.ndarray) -> np.ndarray:
        """One picture (1, 3, h, w) -> (1, 1 or 3, h', w') float32."""
        try:
            found = np.asarray(self.session.run(None, {name: picture})[0], np.float32)
        except Exception as error:
            raise InputError(f"{self.config.file}: could not run on a picture {picture.shape}: {error}") from None
        found = found[:, None] if found.ndim == 3 else found  # networks of depth often give (1, h, w)
        if found.ndim != 4 or found.shape[1] not in (1, 3):
            raise InputError(f"{self.config.file}: expected one channel or three as (1, C, h, w), got {found.shape}")
        return found
