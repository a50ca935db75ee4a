"""CLIP's image encoder (Radford et al. 2021) from a person's own folder, through transformers.

What it is shown is made as Stable Video Diffusion's pipeline does: smoothed, so that nothing of the finer picture folds
into the coarser one, and shrunk by cubic interpolation whose corners stay in place.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from kinolab.conditioning.text.public import TextDtype, encoder_config, load_encoder
from kinolab.conditioning.vision.base import ImageEncoder
from kinolab.contracts.table import KindConfig
from kinolab.runtime.devices import no_autocast
from kinolab.runtime.paths import named
from kinolab.runtime.reading import read_json

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the colours in [0, 1], where the folder's preprocessor_config.json does not say others."""


class ClipImageConfig(KindConfig):
    """A CLIP image encoder with its projection in a folder of your own, as transformers or diffusers saves it."""

    kind: Literal["clip"] = "clip"
    folder: Path
    """The folder with config.json and weights, such as the `image_encoder` of Stable Video Diffusion in diffusers'
    layout."""
    dtype: TextDtype = "float32"
    """What the weights compute in."""


class ClipImage(ImageEncoder):
    """CLIP: the projected embedding of the whole picture as one token."""

    Config = ClipImageConfig
    config: ClipImageConfig

    def __init__(self, config: ClipImageConfig) -> None:
        super().__init__(config)
        self.device = torch.device("cpu")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The image part of config.json."""
        kinds = ("clip", "clip_vision_model")
        values = encoder_config(self.config.folder, kinds, "a CLIP image encoder")
        return {**values, **values.get("vision_config", {})}

    @property
    def dim(self) -> int:
        """Width of the projected embedding."""
        return int(self.settings.get("projection_dim", 512))

    @property
    def side(self) -> int:
        """Side in pixels of what it is shown."""
        return int(self.settings.get("image_size", 224))

    @cached_property
    def model(self) -> Any:
        """The network, read at first use."""
        _ = self.settings  # says plainly what the folder holds instead
        return load_encoder(self.config.folder, "CLIPVisionModelWithProjection", self.config.dtype, self.device)

    @cached_property
    def colours(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation (1, 3, 1, 1) of the colours, of the folder's or the pipeline's preprocessor."""
        folder = named(self.config.folder)
        found: dict[str, Any] = {}
        for place in (folder, folder.with_name("feature_extractor")):
            path = place / "preprocessor_config.json"
            if not found and path.is_file():
                found = read_json(path)
        pair = found.get("image_mean", MEAN), found.get("image_std", DEVIATION)
        mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in pair)
        return mean, deviation

    def to(self, device: torch.device | str) -> Self:
        """Where to compute."""
        self.device = torch.device(device)
        if "model" in vars(self):
            self.model.to(self.device)
        return self

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] -> (B, 1, D)."""
        mean, deviation = (colours.to(self.device) for colours in self.colours)
        shown = shrunk_smoothly(pictures.to(self.device, torch.float32), self.side)
        shown = ((shown + 1) / 2 - mean) / deviation
        with torch.no_grad(), no_autocast():  # exact and the same whatever precision surrounds the call
            found: Tensor = self.model(shown.to(self.model.dtype)).image_embeds
        return found.float()[:, None]


def shrunk_smoothly(pictures: Tensor, side: int) -> Tensor:
    """Pictures (B, 3, H, W) -> (B, 3, side, side): Gaussian smoothing, then cubic interpolation, corners in place.

    The Gaussian of an axis that shrinks by f has the deviation (f - 1) / 2, of at least 0.001, and the odd number of
    taps next above two deviations on each side, of at least 3.
    """
    smooth = pictures
    for axis, length in ((2, pictures.shape[2]), (3, pictures.shape[3])):
        deviation = max((length / side - 1) / 2, 0.001)
        taps = int(max(2.0 * 2 * deviation, 3)) | 1
        smooth = _smoothed(smooth, axis, taps, deviation)
    return F.interpolate(smooth, (side, side), mode="bicubic", align_corners=True)


def _smoothed(x: Tensor, axis: int, taps: int, deviation: float) -> Tensor:
    """x (B, C, H, W) smoothed along an axis, its ends mirrored."""
    at = torch.arange(taps, dtype=x.dtype, device=x.device) - taps // 2
    weights = torch.exp(-at.square() / (2 * deviation**2))
    half, kernel = taps // 2, (weights / weights.sum()).view((1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1))
    pads = (0, 0, half, half) if axis == 2 else (half, half, 0, 0)
    padded = F.pad(x, pads, mode="reflect")
    return F.conv2d(padded, kernel.expand(x.shape[1], -1, -1, -1), groups=x.shape[1])
