"""Dense optical flow, warping by it, and where it can be trusted.

The flow is that of Kroeger et al. 2016 (dense inverse search, "DIS") in OpenCV's implementation, on grey values. It
needs no weights and takes a few milliseconds per pair of frames. Where a surface has no texture, it spreads what it
finds at the edges around.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinolab.errors import InputError, MissingExtraError
from kinolab.runtime.devices import has_float64

MIN_SIDE = 16
"""Smaller frames hold too few of the method's patches of 8 x 8 pixels."""
PROTOCOL: dict[str, str | int | float | bool] = {"flow": "opencv-dis-medium, finest scale 0"}
VISIBLE: dict[str, str | int | float | bool] = {"occlusions": "left out where |f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5"}


def need_flow() -> Any:
    """OpenCV. Raises MissingExtraError where it is not installed: seen before anything is measured, not after."""
    try:
        import cv2
    except ImportError:
        raise MissingExtraError("opencv-python-headless", "eval", "optical flow") from None
    return cv2


def flow(frames: np.ndarray, *, backward: bool = False) -> np.ndarray:
    """Flow between neighbouring frames: (T, H, W, 3) uint8 -> (T - 1, H, W, 2) float32, (x, y) in pixels, y down.

    Forward: what is at p in frame t is at p + flow[t](p) in frame t + 1. Backward: what is at p in frame t + 1 is at
    p + flow[t](p) in frame t. The same on any number of threads.

    Raises:
        InputError: for other arrays, fewer than two frames, frames smaller than `MIN_SIDE`, or without OpenCV.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise InputError(f"expected uint8 frames (T, H, W, 3), got {frames.dtype} {frames.shape}")
    if len(frames) < 2:
        raise InputError(f"optical flow needs at least two frames, got {len(frames)}")
    if min(frames.shape[1:3]) < MIN_SIDE:
        height, width = frames.shape[1:3]
        raise InputError(f"optical flow needs frames of at least {MIN_SIDE} x {MIN_SIDE} pixels, got {height}x{width}")
    cv2 = need_flow()
    method: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    method.setFinestScale(0)  # full resolution: the preset's half loses a tenth of a pixel on small frames
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    pairs = zip(grey[1:], grey[:-1], strict=True) if backward else pairwise(grey)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # patches look at their neighbours within a thread's share of the rows
    try:
        return np.stack([method.calc(a, b, None) for a, b in pairs]).astype(np.float32, copy=False)
    finally:
        cv2.setNumThreads(threads)


def warp(images: Tensor, flows: Tensor) -> Tensor:
    """Images (N, C, H, W) seen through flows (N, H, W, 2): the value at p is images(p + flow(p)), bilinear.

    Positions outside take the nearest pixel of the border. Warping frame t + 1 by the forward flow gives frame t as far
    as it is visible in both.
    """
    N, C, H, W = images.shape
    assert flows.shape == (N, H, W, 2), f"{tuple(flows.shape)} does not fit {tuple(images.shape)}"
    x, y = _targets(flows)
    x, y = x.clamp(0, W - 1), y.clamp(0, H - 1)
    left, top = x.floor().clamp(max=max(W - 2, 0)), y.floor().clamp(max=max(H - 2, 0))
    # (N, 1, H, W) each
    right_share, bottom_share = (x - left)[:, None].to(images.dtype), (y - top)[:, None].to(images.dtype)
    flat = images.flatten(2)

    def at(rows: Tensor, columns: Tensor) -> Tensor:
        index = (rows.clamp(max=H - 1) * W + columns.clamp(max=W - 1)).long()
        return flat.gather(2, index.flatten(1)[:, None].expand(N, C, H * W)).unflatten(2, (H, W))

    above = at(top, left) * (1 - right_share) + at(top, left + 1) * right_share
    below = at(top + 1, left) * (1 - right_share) + at(top + 1, left + 1) * right_share
    return above * (1 - bottom_share) + below * bottom_share


def visible(forward: Tensor, backward: Tensor) -> Tensor:
    """Where a pixel of frame t shows in frame t + 1 too: flows (N, H, W, 2) both ways -> bool (N, H, W).

    Forward-backward consistency, Sundaram et al. 2010, which Ruder et al. 2016 and Lai et al. 2018 use: hidden
    where |f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5 with b the backward flow at p + f(p); hidden too where p + f(p) is
    outside the frame. Their second rule, which also leaves out the borders of motion, is not used: it was made for the
    sharp borders of other flows, and would leave out most of a small frame here.
    """
    H, W = forward.shape[1:3]
    x, y = _targets(forward)
    inside = (x >= -0.5) & (x <= W - 0.5) & (y >= -0.5) & (y <= H - 0.5)
    back = warp(backward.movedim(-1, 1), forward).movedim(1, -1)  # b at p + f(p), (N, H, W, 2)
    gap = (forward + back).square().sum(-1)
    size = forward.square().sum(-1) + back.square().sum(-1)
    return inside & (gap <= 0.01 * size + 0.5)


def _targets(flows: Tensor) -> tuple[Tensor, Tensor]:
    """x and y (N, H, W) of p + flow(p), in float64 where the device has it: there whole numbers stay whole."""
    H, W = flows.shape[1:3]
    exact = torch.float64 if has_float64(flows.device) else torch.float32
    columns = torch.arange(W, dtype=exact, device=flows.device)
    rows = torch.arange(H, dtype=exact, device=flows.device)[:, None]
    return columns + flows[..., 0], rows + flows[..., 1]
