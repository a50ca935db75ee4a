"""Small lossless clips whose every frame says which one it is, and a stand-in autoencoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kinolab import video
from kinolab.autoencoders.base import Autoencoder, AutoencoderSpec, Posterior


def numbered_frames(count: int, *, first: int = 0, height: int = 16, width: int = 16, mark: int = 0) -> np.ndarray:
    """Frame k has red k, green `mark`, blue 255 - k: (count, height, width, 3) uint8."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    numbers = np.arange(first, first + count) % 256
    frames[..., 0], frames[..., 1], frames[..., 2] = numbers[:, None, None], mark, 255 - numbers[:, None, None]
    return frames


def write_numbered(
    path: Path, count: int, *, fps: float = 10.0, mark: int = 0, height: int = 16, width: int = 16
) -> Path:
    """A lossless clip of `numbered_frames`."""
    video.write(path, numbered_frames(count, mark=mark, height=height, width=width), fps, lossless=True)
    return path


def frame_numbers(clip: Tensor) -> list[int]:
    """Which frames a window (3, T, H, W) shows, read from its pixels."""
    return [int(v) for v in video.to_uint8(clip)[:, 8, 8, 0]]


class MeanAutoencoder(Autoencoder):
    """Averages squares of `ratio` pixels and keeps every second frame: latents that can be computed by hand."""

    def __init__(self, ratio: int = 4, scale: float = 1.0) -> None:
        super().__init__()
        self.spec = AutoencoderSpec(latent_channels=3, temporal_ratio=2, spatial_ratio=ratio, causal=True)
        self.scale = torch.nn.Parameter(torch.tensor(scale))
        self.encoded = 0

    def encode(self, video: Tensor) -> Posterior:
        self.check_video(video)
        self.encoded += len(video)
        r = self.spec.spatial_ratio
        mean = torch.nn.functional.avg_pool3d(video[:, :, ::2], (1, r, r)) * self.scale
        mean = mean.transpose(1, 2).contiguous().transpose(1, 2)  # frames outermost in memory, as image models give it
        return Posterior(mean, torch.full_like(mean, -4.0))
