"""How much moves, whether it is the camera or what it sees, and whether the camera shakes.

Dense optical flow (dense inverse search, Kroeger et al. 2016, by OpenCV) of neighbouring frames. Stable Video Diffusion
drops clips of little flow; the mean here is of magnitudes, as signed components cancel wherever things move in opposite
directions. The camera is the affine motion that most of the textured picture agrees on (iteratively re-weighted least
squares); what is left of the flow is the objects'. All in shares of the shorter side, so that sizes compare.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from kinolab.data.curate.frames import Columns, FrameConfig, FrameSignal, Part, Score, Trace, View, Watcher, inside
from kinolab.errors import MissingExtraError

LEAST = 16
"""Pixels of a side that the flow needs."""
TEXTURE = 8.0
"""Grey values per pixel of a gradient below which a place says nothing about how it moves."""
SWEEPS = 5
"""Of re-weighting."""
SHRUNK = 3e-3
"""How much a turn or zoom is held back: what little texture says of one part would be carried over to all others."""
QUIET = 0.2
"""Weight of a plain place that doesn't change: a weak sign of a camera that stands."""
CHANGED = 3.0
"""Grey values by which the mean of 3 x 3 pixels changes where something moves, at least."""


class MotionConfig(FrameConfig):
    """How motion is measured."""

    rate: float | None = Field(12.0, gt=0, le=1000)
    """Frames per second between which the flow is taken; none = all."""
    side: int = Field(96, ge=LEAST, le=1024)
    """Pixels of the shorter side that the flow is taken at; a smaller frame as it is."""


def need_opencv(purpose: str) -> Any:
    """OpenCV. Raises MissingExtraError where it is not installed."""
    try:
        import cv2
    except ImportError:
        raise MissingExtraError("opencv-python-headless", "train", purpose) from None
    return cv2


def camera_of(flow: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The affine motion of a flow (H, W, 2) that most of the weight (H, W) agrees on, as a flow (H, W, 2).

    Weights fall with the distance from the motion found before (Geman and McClure's), so that objects of less than half
    of the textured picture don't pull the camera along. Without texture there is no camera motion.
    """
    height, width = weight.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    places = np.stack([np.ones_like(x), x / width - 0.5, y / height - 0.5], -1)  # (H, W, 3)
    chosen = weight > 0
    if chosen.sum() < 12:
        return np.zeros_like(flow)
    A, b, w = places[chosen].astype(np.float64), flow[chosen].astype(np.float64), weight[chosen].astype(np.float64)
    fit = np.zeros((3, 2))
    fit[0] = [_weighted_median(b[:, k], w) for k in range(2)]  # begins where half of the texture agrees
    for _ in range(SWEEPS):
        error = np.linalg.norm(b - A @ fit, axis=1)
        spread = max(0.25, 1.4826 * _weighted_median(error, w))
        now = w / (1 + (error / spread) ** 2) ** 2
        left = A.T @ (now[:, None] * A) + now.sum() * np.diag([1e-6, SHRUNK, SHRUNK])
        fit = np.linalg.solve(left, A.T @ (now[:, None] * b))
    return np.asarray(places @ fit, np.float32)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(reached, reached[-1] / 2)]])


def _changed(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """How much the mean of the 3 x 3 pixels around each one changes, of grey pictures (H, W) uint8."""
    padded = np.pad(now.astype(np.float32) - before.astype(np.float32), 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return np.asarray(np.abs(rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9)


class Watching(Watcher):
    """The flow between each frame and the one before."""

    def __init__(self, side: int) -> None:
        self._side, self._cv2 = side, need_opencv("motion")
        self._columns = Columns("time", "since", "motion", "camera", "objects", "x", "y")
        self._method: Any = self._cv2.DISOpticalFlow.create(self._cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._method.setFinestScale(0)
        self._before: tuple[float, np.ndarray] | None = None

    def see(self, view: View) -> None:
        """Compare a frame with the one before."""
        grey = np.clip(np.round(view.grey(self._side)), 0, 255).astype(np.uint8)
        before, self._before = self._before, (view.time, grey)
        if before is None or min(grey.shape) < LEAST or grey.shape != before[1].shape:
            return
        threads = self._cv2.getNumThreads()
        self._cv2.setNumThreads(1)  # the same on any number of threads
        try:
            flow = self._method.calc(before[1], grey, None)
        finally:
            self._cv2.setNumThreads(threads)
        # What doesn't change doesn't move: without this, grain and coding noise of plain surfaces count as motion.
        flow = flow * (_changed(before[1], grey) > CHANGED)[..., None]
        seconds, short = view.time - before[0], min(grey.shape)
        down, across = np.gradient(before[1].astype(np.float32))
        texture = np.hypot(down, across)
        moves = np.linalg.norm(flow, axis=-1) > 0
        camera = camera_of(flow, np.where(texture > TEXTURE, texture, np.where(moves, 0.0, QUIET)))
        middle = camera[camera.shape[0] // 2, camera.shape[1] // 2]
        numbers = [float(np.linalg.norm(f, axis=-1).mean()) / short / seconds for f in (flow, camera, flow - camera)]
        self._columns.add(view.time, before[0], *numbers, *(float(v) / short for v in middle))

    def trace(self) -> Trace:
        """One row a pair of frames; x and y are the camera's, in sides from frame to frame."""
        return self._columns.trace()


class Motion(FrameSignal):
    """Motion of a clip."""

    Config = MotionConfig
    scores: ClassVar[dict[str, Score]] = {
        "motion": Score("sides/s", "mean magnitude of the flow; 0 for a still picture"),
        "camera": Score("sides/s", "of that, what the whole picture does"),
        "objects": Score("sides/s", "of that, what moves otherwise than the whole picture"),
        "jitter": Score("sides", "how far the camera jumps from frame to frame, a steady pan left out"),
    }

    def check(self) -> None:
        """OpenCV is there."""
        need_opencv("the signal motion")

    def watch(self) -> Watcher:
        """Begin a file."""
        return Watching(self.config.side)

    def score(self, trace: Trace, part: Part) -> dict[str, float | None]:
        """Means over pairs; jitter as the mean distance of a step from the mean of its two neighbours."""
        found = inside(trace, part)
        if not len(found["time"]):
            return dict.fromkeys(self.scores)
        numbers: dict[str, float | None] = {n: float(found[n].mean()) for n in ("motion", "camera", "objects")}
        steps = np.stack([found["x"], found["y"]], -1)
        bends = steps[1:-1] - (steps[:-2] + steps[2:]) / 2
        return numbers | {"jitter": float(np.linalg.norm(bends, axis=1).mean()) if len(bends) else None}
