"""PSNR and SSIM of reconstructed clips, frame by frame, and SSIM over space and time, streaming over batches.

All compare pixels on the scale [-1, 1], data range 2; the reconstruction is clamped to it first. PSNR and SSIM do
not depend on the scale: on [0, 1] or on 0..255 they are the same numbers.
"""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.metrics.base import Interval, Metric, MetricValue, Need
from kinolab.metrics.clips import ClipScores, Protocol, pixels
from kinolab.metrics.statistics import mean_interval

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
    x, y = pixels(original, reconstruction)
    error = (x - y).square().mean((1, 3, 4), dtype=torch.float64)
    return (10.0 * torch.log10(DATA_RANGE**2 / error)).clamp(max=MAX_PSNR)


def ssim(original: Tensor, reconstruction: Tensor) -> Tensor:
    """Structural similarity per frame (Wang et al. 2004, eq. 13): (B, 3, T, H, W) twice -> (B, T) float64.

    Gaussian window of 11 x 11 pixels and sigma 1.5, at the positions where it fits into the frame; mean over channels
    and positions. 1 = equal. Raises InputError for frames smaller than the window.
    """
    x, y = pixels(original, reconstruction)
    rows, columns = _windows(x)
    # one frame at a time keeps the memory apart from the length of the clip
    frames = zip(x.unbind(2), y.unbind(2), strict=True)
    scores = [_similarity(_moments(f.double(), g.double(), rows, columns)) for f, g in frames]
    return torch.stack(scores, dim=1)


def ssim3d(original: Tensor, reconstruction: Tensor) -> Tensor:
    """Structural similarity over space and time: (B, 3, T, H, W) twice -> (B,) float64.

    Wang et al. 2004, eq. 13, in a window of 11 x 11 pixels and 11 frames, a Gaussian of sigma 1.5 along every axis, at
    the positions where it fits; mean over channels and positions. 1 = equal. A clip of T < 11 frames gets a window of T
    frames, the same Gaussian cut to them; one frame gives the SSIM of the frame. Raises InputError for frames smaller
    than the window.
    """
    x, y = pixels(original, reconstruction)
    rows, columns = _windows(x)
    weights = _gaussian(min(WINDOW, x.shape[2])).tolist()
    recent, scores = deque[Tensor](maxlen=len(weights)), list[Tensor]()
    for f, g in zip(x.unbind(2), y.unbind(2), strict=True):
        recent.append(_moments(f.double(), g.double(), rows, columns))
        if len(recent) == len(weights):
            moments = sum((w * m for w, m in zip(weights, recent, strict=True)), torch.zeros_like(recent[0]))
            scores.append(_similarity(moments))
    return torch.stack(scores, dim=1).mean(1)


def _moments(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Windowed means of x, y, x^2, y^2 and xy: (B, 3, H, W) twice -> (5, B, 3, h, w).

    In float64, where the small differences of squares keep their digits.
    """
    # (h, H) @ (5, B, 3, H, W) @ (W, w): the window is separable.
    return rows @ torch.stack([x, y, x * x, y * y, x * y]) @ columns


def _similarity(moments: Tensor) -> Tensor:
    """(5, B, 3, h, w) -> (B,): eq. 13, mean over channels and positions."""
    mean_x, mean_y, xx, yy, xy = moments.unbind()
    c1, c2 = (K1 * DATA_RANGE) ** 2, (K2 * DATA_RANGE) ** 2
    var_x, var_y, cov = xx - mean_x.square(), yy - mean_y.square(), xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structure = (2 * cov + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean((1, 2, 3))


class _FrameMean(Metric):
    """Mean over all frames seen so far of a score per frame; the frames of a clip are kept together for its own mean.

    The clips are the independent samples, so the interval comes from them. With clips of different lengths the mean
    over frames is a ratio of sums over clips, and the interval that of its linear form (Cochran 1977, section 6.3).
    """

    name: str
    better = "higher"
    needs = frozenset[Need]({"pairs"})

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0
        self._sizes: set[tuple[int, int]] = set()
        self._clips: list[tuple[float, int]] = []
        self._last = 0

    def _add(self, scores: Tensor, video: Tensor, continues: bool) -> None:
        if continues and self._last != len(scores):
            raise InputError(f"a batch that continues {self._last} clips must hold as many, got {len(scores)}")
        self._sum += math.fsum(scores.flatten().tolist())
        self._count += scores.numel()
        self._sizes.add((video.shape[3], video.shape[4]))
        before = self._clips[-self._last :] if continues else [(0.0, 0)] * len(scores)
        if continues:
            del self._clips[-self._last :]
        self._clips += [(s + math.fsum(f), n + len(f)) for (s, n), f in zip(before, scores.tolist(), strict=True)]
        self._last = len(scores)

    @property
    def per_clip(self) -> list[float]:
        """The mean over the frames of every clip so far, in the order of the updates."""
        return [s / n for s, n in self._clips]

    def compute(self) -> MetricValue:
        """The mean over frames; `count` is their number. Raises InputError before any `update`."""
        if not self._count:
            raise InputError(f"{self.name} has seen no frames: update it with clips before compute")
        protocol: Protocol = {
            "metric": self.name,
            "average": "frames",
            "data_range": DATA_RANGE,
            "clamped": True,
            "size": ", ".join(f"{h}x{w}" for h, w in sorted(self._sizes)),
        }
        value = self._sum / self._count
        return MetricValue(value, self._count, protocol | self._settings(), self._interval(value))

    def _interval(self, value: float) -> Interval | None:
        if not math.isfinite(value):
            return None
        weight = len(self._clips) / self._count
        return mean_interval([value + n * weight * (s / n - value) for s, n in self._clips])

    def _settings(self) -> Protocol:
        raise NotImplementedError


class Psnr(_FrameMean):
    """Mean PSNR over frames, in dB."""

    name = "psnr"
    digits = 2

    def update(self, original: Tensor, reconstruction: Tensor, *, continues: bool = False) -> None:
        """Add clips (B, 3, T, H, W): both float in [-1, 1], or both uint8.

        continues: these are the next frames of the clips of the update before, not clips of their own.
        """
        self._add(psnr(original, reconstruction), original, continues)

    def _settings(self) -> Protocol:
        return {"max": MAX_PSNR}


class Ssim(_FrameMean):
    """Mean SSIM over frames."""

    name = "ssim"

    def update(self, original: Tensor, reconstruction: Tensor, *, continues: bool = False) -> None:
        """Add clips (B, 3, T, H, W): both float in [-1, 1], or both uint8.

        continues: these are the next frames of the clips of the update before, not clips of their own.
        """
        self._add(ssim(original, reconstruction), original, continues)

    def _settings(self) -> Protocol:
        return {"window": WINDOW, "sigma": SIGMA, "k1": K1, "k2": K2, "border": "left out"}


class Ssim3d(ClipScores):
    """Mean over clips of the SSIM over space and time (`ssim3d`)."""

    name = "ssim3d"
    better = "higher"
    needs = frozenset[Need]({"pairs"})

    def update(self, original: Tensor, reconstruction: Tensor) -> None:
        """Add whole clips (B, 3, T, H, W): both float in [-1, 1], or both uint8."""
        self._add(ssim3d(original, reconstruction).tolist(), original)

    def _settings(self) -> Protocol:
        lengths = sorted({min(WINDOW, t) for t, _, _ in self._shapes})
        return {
            "data_range": DATA_RANGE,
            "clamped": True,
            "window": WINDOW,
            "temporal_window": ", ".join(map(str, lengths)),
            "sigma": SIGMA,
            "k1": K1,
            "k2": K2,
            "border": "left out",
        }


def _windows(video: Tensor) -> tuple[Tensor, Tensor]:
    """The windows over the rows and over the columns, to multiply frames with from the left and from the right."""
    H, W = video.shape[3:]
    if min(H, W) < WINDOW:
        raise InputError(f"SSIM needs frames of at least {WINDOW} x {WINDOW} pixels, got {H} x {W}")
    return _window(H).to(video.device), _window(W).to(video.device).T


def _window(size: int) -> Tensor:
    """The Gaussian at every position where it fits, as a matrix (size - 10, size) in float64."""
    window = _gaussian(WINDOW)
    matrix = torch.zeros(size - WINDOW + 1, size, dtype=torch.float64)
    for i in range(len(matrix)):
        matrix[i, i : i + WINDOW] = window
    return matrix


def _gaussian(size: int) -> Tensor:
    """(size,) float64, centred, with sum 1."""
    offsets = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    window = torch.exp(-0.5 * (offsets / SIGMA).square())
    return window / window.sum()
