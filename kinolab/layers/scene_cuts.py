"""Where a clip cuts: a cheap score that sees each frame once, and PySceneDetect's detector."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kinolab.errors import InputError, MissingExtraError

SIDE, BINS, MEMORY = 16, 16, 8
"""Frames are compared at 16 x 16 pixels and by histograms of 16 bins; a cut stands out from the last 8 changes."""


def change_score(before: Tensor, after: Tensor) -> float:
    """How much differs from one frame to the next, in [0, 1]; frames (3, H, W) in [-1, 1].

    The geometric mean of two distances in [0, 1], so that both have to be large: the mean absolute difference of the
    frames shrunk to 16 x 16, which fast motion raises too, and the total variation distance of the histograms of each
    colour, which a change of light raises too.
    """
    a, b = ((frame.detach().float().clamp(-1, 1) + 1) / 2 for frame in (before, after))
    moved = (F.adaptive_avg_pool2d(a, SIDE) - F.adaptive_avg_pool2d(b, SIDE)).abs().mean()
    recoloured = 0.5 * (_histograms(a) - _histograms(b)).abs().sum(1).mean()
    return float((moved * recoloured).sqrt())


def _histograms(frame: Tensor) -> Tensor:
    """(3, H, W) in [0, 1] -> (3, BINS), each row summing to 1."""
    bins = (frame * BINS).long().clamp(max=BINS - 1).flatten(1)
    counts = torch.zeros(len(bins), BINS, device=frame.device)
    return counts.scatter_add_(1, bins, torch.ones_like(bins, dtype=counts.dtype)) / bins.shape[1]


class CutDetector:
    """Says of each frame in turn whether it begins a new scene, from what came before alone.

    A frame does where its change score is above `threshold` and `contrast` times the largest of the last changes in
    its scene.
    """

    def __init__(self, threshold: float, contrast: float) -> None:
        self.threshold, self.contrast = threshold, contrast
        self._before: Tensor | None = None
        self._changes: deque[float] = deque(maxlen=MEMORY)

    def begins_scene(self, frame: Tensor) -> bool:
        """Whether a cut stands before `frame` (3, H, W) in [-1, 1]; never before the first one."""
        before, self._before = self._before, frame.clone()
        if before is None:
            return False
        change = change_score(before, frame)
        if change > self.threshold and change > self.contrast * max(self._changes, default=0.0):
            self._changes.clear()
            return True
        self._changes.append(change)
        return False


def detector_cuts(frames: Iterable[np.ndarray], fps: float) -> tuple[int, ...]:
    """The numbers of the first frames of new scenes, by PySceneDetect's adaptive detector.

    frames: (H, W, 3) uint8 RGB, best small ones; a stream that ends in an InputError (a damaged file) is judged up to
    there.

    Raises:
        MissingExtraError: without PySceneDetect.
    """
    try:
        from scenedetect import AdaptiveDetector, FrameTimecode
    except ImportError:
        raise MissingExtraError("scenedetect-headless", "train", "splitting clips at scene cuts") from None
    detector = AdaptiveDetector(min_scene_len=2)
    cuts = []
    last = FrameTimecode(0, fps)
    try:
        for number, frame in enumerate(frames):
            last = FrameTimecode(number, fps)
            cuts += detector.process_frame(last, np.ascontiguousarray(frame[..., ::-1]))
    except InputError:
        pass  # whoever reads the file says so; the scenes before the damage are known
    cuts += detector.post_process(last)
    return tuple(sorted({int(cut.frame_num) for cut in cuts}))
