"""PSNR and SSIM of reconstructed clips, frame by frame, streaming over batches.

Both compare pixels on the scale [-1, 1], data range 2; the reconstruction is clamped to it first. PSNR and SSIM do
not depend on the scale: on [0, 1] or on 0..255 they are the same numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.metrics.base import MetricValue

DATA_RANGE = 2.0
MAX_PSNR = 100.0
"""Decibels that a frame without any error counts as; its PSNR would be infinite, and so would every mean with it."""
WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03


def psnr(original: Tensor, reconstruction: Tensor) -> Tensor:
    """Peak signal-to-noise ratio per frame in dB, at most `MAX_PSNR`: (B, 3, T, H, W) twice -> (B, T) float64.

    10 log10(range^2 / mean squared error over the channels and pixels of the frame).
    """
    x, y = _pixels(original, reconstruction)
    error = (x - y).square().mean((1, 3, 4), dtype=torch.float64)
    return (10.0 * torch.log10(DATA_RANGE**2 / error)).clamp(max=MAX_PSNR)


def ssim(original: Tensor, reconstruction: Tensor) -> Tensor:
    """Structural similarity per frame (Wang et al. 2004, eq. 13): (B, 3, T, H, W) twice -> (B, T) float64.

    Gaussian window of 11 x 11 pixels and sigma 1.5, at the positions where it fits into the frame; mean over channels
    and positions. 1 = equal. Raises InputError for frames smaller than the window.
    """
    x, y = _pixels(original, reconstruction)
    H, W = x.shape[3:]
    if min(H, W) < WINDOW:
        raise InputError(f"SSIM needs frames of at least {WINDOW} x {WINDOW} pixels, got {H} x {W}")
    rows, columns = _window(H).to(x.device), _window(W).to(x.device).T
    # one frame at a time keeps the memory apart from the length of the clip
    frames = zip(x.unbind(2), y.unbind(2), strict=True)
    return torch.stack([_ssim_of_frames(f.double(), g.double(), rows, columns) for f, g in frames], dim=1)


def _ssim_of_frames(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, 3, H, W) twice in float64, where the small differences of squares keep their digits -> (B,)."""
    mean_x, mean_y, xx, yy, xy = (rows @ torch.stack([x, y, x * x, y * y, x * y]) @ columns).unbind()
    c1, c2 = (K1 * DATA_RANGE) ** 2, (K2 * DATA_RANGE) ** 2
    var_x, var_y, cov = xx - mean_x.square(), yy - mean_y.square(), xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structure = (2 * cov + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean((1, 2, 3))


class _FrameMean:
    """Mean over all frames seen so far of a score per frame."""

    name: str

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0
        self._sizes: set[tuple[int, int]] = set()

    def _add(self, scores: Tensor, video: Tensor) -> None:
        self._sum += math.fsum(scores.flatten().tolist())
        self._count += scores.numel()
        self._sizes.add((video.shape[3], video.shape[4]))

    def compute(self) -> MetricValue:
        """The mean over frames; `count` is their number. Raises InputError before any `update`."""
        if not self._count:
            raise InputError(f"{self.name} has seen no frames: update it with clips before compute")
        protocol: dict[str, str | int | float | bool] = {
            "metric": self.name,
            "average": "frames",
            "data_range": DATA_RANGE,
            "clamped": True,
            "size": ", ".join(f"{h}x{w}" for h, w in sorted(self._sizes)),
        }
        return MetricValue(self._sum / self._count, self._count, protocol | self._settings())

    def _settings(self) -> dict[str, str | int | float | bool]:
        raise NotImplementedError


class Psnr(_FrameMean):
    """Mean PSNR over frames, in dB."""

    name = "psnr"

    def update(self, original: Tensor, reconstruction: Tensor) -> None:
        """Add clips (B, 3, T, H, W): both float in [-1, 1], or both uint8."""
        self._add(psnr(original, reconstruction), original)

    def _settings(self) -> dict[str, str | int | float | bool]:
        return {"max": MAX_PSNR}


class Ssim(_FrameMean):
    """Mean SSIM over frames."""

    name = "ssim"

    def update(self, original: Tensor, reconstruction: Tensor) -> None:
        """Add clips (B, 3, T, H, W): both float in [-1, 1], or both uint8."""
        self._add(ssim(original, reconstruction), original)

    def _settings(self) -> dict[str, str | int | float | bool]:
        return {"window": WINDOW, "sigma": SIGMA, "k1": K1, "k2": K2, "border": "left out"}


def _pixels(original: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
    """Both clips as float32 on [-1, 1]; raises InputError unless they are clips of one shape and kind."""
    if original.ndim != 5 or original.shape != reconstruction.shape or not original.numel():
        raise InputError(
            "expected two clips of one shape (B, 3, T, H, W), "
            f"got {tuple(original.shape)} and {tuple(reconstruction.shape)}"
        )
    if original.device.type == "mps":  # which has no float64
        original, reconstruction = original.cpu(), reconstruction.cpu()
    kinds = {original.dtype, reconstruction.dtype}
    if kinds == {torch.uint8}:
        return original.float() / 127.5 - 1.0, reconstruction.float() / 127.5 - 1.0
    if not all(kind.is_floating_point for kind in kinds):
        raise InputError(
            f"expected both clips as float in [-1, 1] or both as uint8, got {original.dtype} and {reconstruction.dtype}"
        )
    return original.detach().float(), reconstruction.detach().float().clamp(-1.0, 1.0)


def _window(size: int) -> Tensor:
    """The normalised Gaussian at every position where it fits, as a matrix (size - 10, size) in float64."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - (WINDOW - 1) / 2
    window = torch.exp(-0.5 * (offsets / SIGMA).square())
    matrix = torch.zeros(size - WINDOW + 1, size, dtype=torch.float64)
    for i in range(len(matrix)):
        matrix[i, i : i + WINDOW] = window / window.sum()
    return matrix
