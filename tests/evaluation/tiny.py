"""A tiny random encoder, protocols on it, and folders of small videos in which something moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from kinolab import video
from kinolab.evaluation.protocol import Protocol, check_protocol
from kinolab.metrics.extractors.encoder import VideoEncoder, VideoEncoderConfig, save_encoder

EVERY_GENERATION = (
    "fvd", "fvd_infinite", "kvd", "fid", "kid", "precision", "recall", "density", "coverage", "subject_consistency",
    "background_consistency", "temporal_flickering", "motion_smoothness", "dynamic_degree",
)  # fmt: skip


def tiny_encoder(folder: Path, seed: int = 0, **config: Any) -> Path:
    """Write an encoder of random weights for frames of 16 pixels and return its folder."""
    torch.manual_seed(seed)
    save_encoder(VideoEncoder(VideoEncoderConfig(**{"widths": (8,), "embedding": 4, "size": 16} | config)), folder)
    return folder


def generation(encoder: Path, **changes: Any) -> Protocol:
    """Clips of 5 frames of 32 pixels, at least 10 of them, on a tiny encoder."""
    return _checked({
        "name": "tiny", "kind": "generation", "metrics": ("fvd",), "frames": 5, "size": 32, "minimum": 10,
        "samples": 16, "video": {"path": encoder}, "image": {"path": encoder},
    } | changes)  # fmt: skip


def reconstruction(encoder: Path, **changes: Any) -> Protocol:
    """Clips of 17 frames of 32 pixels on a tiny encoder."""
    return _checked({
        "name": "tiny", "kind": "reconstruction", "metrics": ("psnr", "ssim"), "frames": 17, "size": 32, "minimum": 3,
        "samples": 4, "video": {"path": encoder},
    } | changes)  # fmt: skip


def _checked(values: dict[str, Any]) -> Protocol:
    protocol = Protocol.model_validate(values)
    check_protocol(protocol)
    return protocol


def moving_frames(count: int, seed: int, side: int = 32) -> np.ndarray:
    """A textured square that moves over a textured ground: (count, side, side, 3) uint8."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(60, 120, (side, side, 3), np.uint8)
    square = rng.integers(150, 240, (8, 8, 3), np.uint8)
    y, x = rng.integers(2, side - 10 - count, 2)
    frames = np.repeat(ground[None], count, axis=0)
    for t in range(count):
        frames[t, y : y + 8, x + t : x + t + 8] = square
    return frames


def write_videos(folder: Path, count: int, *, first: int = 0, frames: int = 5, side: int = 32) -> Path:
    """Lossless videos 00.mkv, 01.mkv, ... of `moving_frames` from seed `first` on."""
    for k in range(count):
        video.write(folder / f"{k:02d}.mkv", moving_frames(frames, first + k, side), 8, lossless=True)
    return folder
