"""What every feature extractor is: a frozen network with a name and the hash of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinolab.errors import InputError

Resize = Literal["bilinear", "bicubic", "area"]


@dataclass(frozen=True)
class ExtractorSpec:
    """What must be equal for two features to be comparable.

    name: the network, e.g. "i3d"; sha256: of the weights' file, so that features of other weights never mix.
    unit: what one feature vector describes: a whole "clip", or a single "frame".
    width: length of a feature vector; classes: length of a vector of probabilities, 0 where there are none.
    size: height and width that frames are resized to; resize: by what filter, always with antialiasing.
    min_frames: the shortest clip it takes.
    """

    name: str
    sha256: str
    unit: Literal["clip", "frame"]
    width: int
    classes: int = 0
    size: tuple[int, int] = (224, 224)
    resize: Resize = "bilinear"
    min_frames: int = 1

    def protocol(self) -> dict[str, str | int | float | bool]:
        """The part of a score's protocol that the extractor decides."""
        height, width = self.size
        return {
            "extractor": self.name,
            "extractor_sha256": self.sha256,
            "unit": self.unit,
            "extractor_size": f"{height}x{width}",
            "extractor_resize": self.resize,
        }


class Extractor(nn.Module):
    """Base of the extractors: clips (B, 3, T, H, W) in [-1, 1] -> feature vectors, one per clip or per frame.

    Weights are frozen. A subclass defines `spec`, and `features` on clips that `prepare` has brought to its size; one
    with classes also `probabilities`.
    """

    spec: ExtractorSpec

    @torch.no_grad()
    def forward(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (N, width) float32; N = B for clips, B * T for frames (all frames of a clip together)."""
        return self.features(self.prepare(video)).float()

    def features(self, video: Tensor) -> Tensor:
        """Prepared clips (B, 3, T, h, w) -> (N, width)."""
        raise NotImplementedError

    @torch.no_grad()
    def probabilities(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> class probabilities (N, classes) float32.

        Raises:
            InputError: where the network has no classes.
        """
        raise InputError(f"{self.spec.name} has no classes: the inception score needs a network that has some")

    def prepare(self, video: Tensor) -> Tensor:
        """Check clips, clamp them to [-1, 1], and resize every frame to the extractor's size.

        Raises:
            InputError: where the clips are not (B, 3, T, H, W), too short, or not finite.
        """
        return resize_frames(self.check(video), self.spec.size, self.spec.resize)

    def check(self, video: Tensor) -> Tensor:
        """Clips in float32, clamped to [-1, 1], in their own size; raises InputError as `prepare` does."""
        if video.ndim != 5 or video.shape[1] != 3 or not video.numel():
            raise InputError(f"expected clips (B, 3, T, H, W), got {tuple(video.shape)}")
        if video.shape[2] < self.spec.min_frames:
            raise InputError(
                f"{self.spec.name} needs clips of at least {self.spec.min_frames} frames, got {video.shape[2]}"
            )
        if not bool(torch.isfinite(video).all()):
            raise InputError(f"clips hold values that are not finite; {self.spec.name} was given nothing")
        return video.float().clamp(-1, 1)


def resize_frames(video: Tensor, size: tuple[int, int], filter: Resize) -> Tensor:
    """(B, 3, T, H, W) -> (B, 3, T, h, w), every frame by itself, antialiased; unchanged where it has that size."""
    if tuple(video.shape[3:]) == tuple(size):
        return video
    B, C, T = video.shape[:3]
    frames = video.transpose(1, 2).flatten(0, 1)
    if filter == "area":
        frames = F.interpolate(frames, size, mode="area")
    else:
        frames = F.interpolate(frames, size, mode=filter, align_corners=False, antialias=True).clamp(-1, 1)
    return frames.unflatten(0, (B, T)).transpose(1, 2).reshape(B, C, T, *size)
