"""What the metrics that score clip by clip share: checked pixels, one score per clip, their mean and its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.metrics.base import Interval, Metric, MetricValue
from kinolab.metrics.statistics import mean_interval
from kinolab.runtime.devices import has_float64

Protocol = dict[str, str | int | float | bool]


class ClipScores(Metric):
    """One score per clip, in the order of the updates, and their mean.

    A subclass has a `name`, an `update` that calls `_add`, and says in `_settings` what else two values must share.
    """

    name: str

    def __init__(self) -> None:
        self._scores: list[float] = []
        self._shapes: set[tuple[int, int, int]] = set()

    @property
    def per_clip(self) -> list[float]:
        """The score of every clip so far."""
        return list(self._scores)

    def compute(self) -> MetricValue:
        """The mean over clips; `count` is their number. Raises InputError before any `update`."""
        if not self._scores:
            raise InputError(self._nothing())
        value = math.fsum(self._scores) / len(self._scores)
        return MetricValue(value, len(self._scores), self._protocol(), self._interval())

    def _nothing(self) -> str:
        return f"{self.name} has seen no clips: update it with clips before compute"

    def _interval(self) -> Interval | None:
        return mean_interval(self._scores)

    def _protocol(self) -> Protocol:
        return {"metric": self.name, "average": "clips"} | self._seen() | self._settings()

    def _settings(self) -> Protocol:
        raise NotImplementedError

    def _seen(self) -> Protocol:
        """The sizes and lengths of the clips: a value depends on both."""
        sizes = sorted({(h, w) for _, h, w in self._shapes})
        return {
            "size": ", ".join(f"{h}x{w}" for h, w in sizes),
            "frames": ", ".join(str(t) for t in sorted({t for t, _, _ in self._shapes})),
        }

    def _add(self, scores: Sequence[float], video: Tensor) -> None:
        """Keep the scores of clips shaped as `video` (B, 3, T, H, W) is."""
        self._scores += scores
        self._shapes.add((video.shape[2], video.shape[3], video.shape[4]))


def pixels(original: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
    """Both clips (B, 3, T, H, W) as float32 on [-1, 1], the reconstruction clamped.

    Raises:
        InputError: unless they are clips of one shape and kind, both float or both uint8.
    """
    if original.ndim != 5 or original.shape != reconstruction.shape or not original.numel():
        raise InputError(
            "expected two clips of one shape (B, 3, T, H, W), "
            f"got {tuple(original.shape)} and {tuple(reconstruction.shape)}"
        )
    if not has_float64(original.device):
        original, reconstruction = original.cpu(), reconstruction.cpu()
    kinds = {original.dtype, reconstruction.dtype}
    if kinds == {torch.uint8}:
        return original.float() / 127.5 - 1.0, reconstruction.float() / 127.5 - 1.0
    if not all(kind.is_floating_point for kind in kinds):
        raise InputError(
            f"expected both clips as float in [-1, 1] or both as uint8, got {original.dtype} and {reconstruction.dtype}"
        )
    return original.detach().float(), reconstruction.detach().float().clamp(-1.0, 1.0)


def unit_pixels(video: Tensor, frames: int = 1) -> Tensor:
    """Clips (B, 3, T, H, W), float in [-1, 1] or uint8, as float32 in [0, 1] on the processor.

    Raises:
        InputError: for another shape, fewer than `frames` frames, or values that are not finite.
    """
    if video.ndim != 5 or video.shape[1] != 3 or not video.numel():
        raise InputError(f"expected clips (B, 3, T, H, W), got {tuple(video.shape)}")
    if video.shape[2] < frames:
        raise InputError(f"expected clips of at least {frames} frames, got {video.shape[2]}")
    if video.dtype == torch.uint8:
        return video.cpu().float() / 255.0
    if not video.dtype.is_floating_point:
        raise InputError(f"expected clips as float in [-1, 1] or as uint8, got {video.dtype}")
    values = video.detach().float().cpu()
    if not bool(torch.isfinite(values).all()):
        raise InputError("the clips hold values that are not finite")
    return (values.clamp(-1.0, 1.0) + 1.0) / 2.0


def unit_pair(original: Tensor, reconstruction: Tensor, frames: int = 1) -> tuple[Tensor, Tensor]:
    """`unit_pixels` of both; raises InputError unless they have one shape and are both float or both uint8."""
    if original.shape != reconstruction.shape or original.dtype.is_floating_point != (
        reconstruction.dtype.is_floating_point
    ):
        raise InputError(
            "expected two clips of one shape and kind, "
            f"got {tuple(original.shape)} {original.dtype} and {tuple(reconstruction.shape)} {reconstruction.dtype}"
        )
    return unit_pixels(original, frames), unit_pixels(reconstruction, frames)
