"""Offline forms of VBench's temporal dimensions (Huang et al. 2024): no weights but those of the extractor at hand.

They follow VBench's formulas as published in its code, with other judges: Kinolab's extractors where VBench has DINO
and CLIP, optical flow by dense inverse search where it has RAFT, interpolation along that flow where it has AMT. So
the numbers are not VBench's and must not stand beside them; every name and protocol says "offline". For VBench's own
numbers write its folders with `kinolab.generation.vbench` and run the original tool.

Videos are (B, 3, T, H, W), float in [-1, 1] or uint8, whole, of at least 16 x 16 pixels. Scores are means over videos.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kinolab.config import Config
from kinolab.errors import InputError
from kinolab.metrics.base import Interval, Need, Setup
from kinolab.metrics.clips import ClipScores, Protocol, unit_pixels
from kinolab.metrics.extractors.base import Extractor
from kinolab.metrics.flow import PROTOCOL, flow, visible, warp
from kinolab.metrics.statistics import wilson
from kinolab.metrics.temporal import frames_of
from kinolab.runtime.devices import device_of

Region = Literal["moving", "static", "whole"]

TOP = 0.05
"""The share of a frame's pixels, those with the largest flow, whose mean is its motion (VBench)."""
MOVING = 1 / 256
"""Pixels per frame, over the frame's shorter side, below which nothing counts as moving."""
MARGIN = 1.25
"""Side of the crop over the extent of what moves."""
MIN_CROP = 0.25
"""Smallest side of the crop over the frame's shorter side."""
MIN_STATIC = 0.1
"""With less than this share of pixels that never move there is no background to look at."""


class SubjectConfig(Config):
    """What is compared."""

    region: Literal["moving", "whole"] = "moving"
    """A square around what moves, or whole frames."""


class BackgroundConfig(Config):
    """What is compared."""

    region: Literal["static", "whole"] = "static"
    """What never moves, or whole frames."""


class FlickeringConfig(Config):
    """Which videos count."""

    static_only: bool = False
    """Only those that hold still, as VBench asks for."""


class _Consistency(ClipScores):
    """Mean over frames 2 .. T of the average of two cosine similarities: with the first frame, with the one before.

    Negative similarities count as 0, as in VBench. A video in which the region is empty (nothing moves, or nearly
    everything) is judged by its whole frames; `whole` counts those.
    """

    judge: str
    better = "higher"
    needs = frozenset[Need]({"clips", "flow"})
    weights = "image"

    def __init__(self, extractor: Extractor, region: Region) -> None:
        if extractor.spec.unit != "frame":
            raise InputError(f"{self.name} needs an extractor of frames; {extractor.spec.name} describes whole clips")
        super().__init__()
        self.extractor, self.region = extractor, region
        self.whole = 0

    def update(self, video: Tensor) -> None:
        """Add videos (B, 3, T, H, W) of at least two frames."""
        for clip in unit_pixels(video, frames=2):
            part = clip if self.region == "whole" else _part(clip, self.region)
            self.whole += part is None
            pictures = (clip if part is None else part)[None] * 2.0 - 1.0
            features = self.extractor(pictures.to(device_of(self.extractor)))
            self._add([consistency(features)], video)

    def _settings(self) -> Protocol:
        settings: Protocol = {"instead_of": self.judge, "region": self.region}
        return settings | self.extractor.spec.protocol() | (PROTOCOL if self.region != "whole" else {})


class SubjectConsistency(_Consistency):
    """Whether what moves stays the same thing. Offline form of VBench's subject consistency.

    VBench compares DINO ViT-B/16 features of whole frames. Here: features of the given extractor, of a square that
    follows the moving region (`moving_crops`), because a small encoder has not learned by itself to look at the
    subject. `region="whole"` compares whole frames, as VBench does. VBench averages over all frames of all videos;
    this is a mean over videos, the same for videos of one length.
    """

    name = "subject_consistency_offline"
    judge = "VBench: DINO ViT-B/16, whole frames"

    Config = SubjectConfig

    def __init__(self, extractor: Extractor, region: Literal["moving", "whole"] = "moving") -> None:
        super().__init__(extractor, region)

    @classmethod
    def build(cls, setup: Setup) -> SubjectConsistency:
        """By the protocol's network of frames."""
        return cls(setup.networks["image"], setup.settings.region)


class BackgroundConsistency(_Consistency):
    """Whether the surroundings stay the same. Offline form of VBench's background consistency.

    VBench compares CLIP ViT-B/32 features of whole frames. Here: features of the given extractor, of frames in which
    every pixel that ever moves is filled with the mean colour of the others (`static_part`), so that the subject does
    not count. Under a moving camera all moves, and whole frames are compared; so they are with `region="whole"`.
    """

    name = "background_consistency_offline"
    judge = "VBench: CLIP ViT-B/32, whole frames"

    Config = BackgroundConfig

    def __init__(self, extractor: Extractor, region: Literal["static", "whole"] = "static") -> None:
        super().__init__(extractor, region)

    @classmethod
    def build(cls, setup: Setup) -> BackgroundConsistency:
        """By the protocol's network of frames."""
        return cls(setup.networks["image"], setup.settings.region)


def consistency(features: Tensor) -> float:
    """Features of the frames of one video (T, D) -> their consistency in [0, 1].

    Raises:
        InputError: where a feature is not finite.
    """
    if not bool(torch.isfinite(features).all()):
        raise InputError("the extractor gave features that are not finite")
    unit = F.normalize(features.cpu().double(), dim=1)
    first, previous = (unit[1:] * unit[:1]).sum(1), (unit[1:] * unit[:-1]).sum(1)
    return float((first.clamp(0, 1) + previous.clamp(0, 1)).mean() / 2)


def _part(clip: Tensor, region: Region) -> Tensor | None:
    moves = moving_pixels(frames_of(clip))
    return moving_crops(clip, moves) if region == "moving" else static_part(clip, moves)


def moving_pixels(frames: np.ndarray) -> np.ndarray:
    """Which pixels move: (T, H, W, 3) uint8 -> bool (T, H, W).

    Those whose flow to the next frame (of the last frame: to the one before) is `moving` and can be followed back, so
    that a sudden change of what stands still is not taken for motion.
    """
    forward, backward = flow(frames), flow(frames, backward=True)
    there = np.concatenate([forward, backward[-1:]])  # one at the pixels of every frame
    back = np.concatenate([backward, forward[-1:]])
    return moving(there) & visible(torch.from_numpy(there), torch.from_numpy(back)).numpy()


def moving(flows: np.ndarray) -> np.ndarray:
    """Which pixels of flows (T, H, W, 2) move: bool (T, H, W).

    The motion of a frame's camera, the median flow, is taken off. What moves is faster than half of the frame's top 5%
    and than 1/256 of its shorter side per frame. (Half, because this flow spreads into smooth surroundings.)
    """
    own = flows - np.median(flows, axis=(1, 2), keepdims=True)
    least = np.maximum(0.5 * top_flow(own), MOVING * min(flows.shape[1:3]))
    return np.linalg.norm(own, axis=-1) > least[:, None, None]


def moving_crops(clip: Tensor, moves: np.ndarray) -> Tensor | None:
    """A clip (3, T, H, W) and what moves (T, H, W) -> squares (3, T, S, S) around it, all of one size.

    The square is centred on the mean position of what moves; where nothing does it stays where it was (before the
    first motion, where that begins). S is the largest extent over the frames, outliers of 2.5% on each side left out,
    with a margin. None where nothing moves.
    """
    H, W = clip.shape[2:]
    known = [np.argwhere(m) for m in moves]
    if not any(len(p) for p in known):
        return None
    spreads = [np.diff(np.percentile(p, (2.5, 97.5), axis=0), axis=0).max() + 1 for p in known if len(p)]
    S = min(max(math.ceil(max(spreads) * MARGIN), math.ceil(MIN_CROP * min(H, W))), H, W)
    centre = next(p for p in known if len(p)).mean(0)
    crops = []
    for t, positions in enumerate(known):
        centre = positions.mean(0) if len(positions) else centre
        top, left = (int(np.clip(round(c - (S - 1) / 2), 0, n - S)) for c, n in zip(centre, (H, W), strict=True))
        crops.append(clip[:, t, top : top + S, left : left + S])
    return torch.stack(crops, dim=1)


def static_part(clip: Tensor, moves: np.ndarray) -> Tensor | None:
    """A clip (3, T, H, W) with every pixel that moves at any time, and two around it, in the mean colour of the others.

    None where fewer than a tenth of the pixels are left.
    """
    ever = torch.from_numpy(moves.any(0))[None, None].float()
    static = F.max_pool2d(ever, 5, stride=1, padding=2)[0, 0] == 0
    if float(static.float().mean()) < MIN_STATIC:
        return None
    colour = clip[:, :, static].mean((1, 2))  # (3, T, pixels) -> (3,)
    return torch.where(static, clip, colour[:, None, None, None])


def top_flow(flows: np.ndarray) -> np.ndarray:
    """Mean of the 5% largest magnitudes of every flow: (N, H, W, 2) -> (N,) pixels per frame, as VBench measures it."""
    size = np.linalg.norm(flows, axis=-1).reshape(len(flows), -1)
    return np.sort(size, axis=1)[:, -max(1, int(size.shape[1] * TOP)) :].mean(1)


def is_static(frames: np.ndarray) -> bool:
    """Whether a video (T, H, W, 3) uint8 holds still, by the rule of VBench's filter of static videos, on this flow.

    At most round(T / 8) pairs of neighbouring frames may have a top flow above 3 pixels at a shorter side of 256; the
    flow between the first and the last frame, both ways, may be 2 round(T / 8) times that (at least once).
    """
    limit = 3.0 * min(frames.shape[1:3]) / 256
    allowed = round(2 * len(frames) / 16)
    ends = frames[[0, -1, 0]]
    fast = int((top_flow(flow(frames)) > limit).sum())
    return fast <= allowed and bool((top_flow(flow(ends)) <= limit * max(1, 2 * allowed)).all())


class TemporalFlickering(ClipScores):
    """(255 - mean |difference of neighbouring frames|) / 255 on grey levels. Offline form of temporal flickering.

    VBench's formula as it is; 1 = still. VBench asks for still scenes and first leaves out the videos that its filter
    finds to move: with `static_only` so does this, by other flow (`is_static`), and `left_out` counts them. Without it
    motion counts as flicker.
    """

    name = "temporal_flickering_offline"
    better = "higher"
    Config = FlickeringConfig

    def __init__(self, static_only: bool = True) -> None:
        super().__init__()
        self.static_only = static_only
        self.left_out = 0

    @classmethod
    def build(cls, setup: Setup) -> TemporalFlickering:
        """Of all videos, or of those that hold still."""
        return cls(setup.settings.static_only)

    def update(self, video: Tensor) -> None:
        """Add videos (B, 3, T, H, W) of at least two frames."""
        for clip in unit_pixels(video, frames=2):
            frames = frames_of(clip)
            if self.static_only and not is_static(frames):
                self.left_out += 1
                continue
            differences = [_absolute_error(a, b) for a, b in pairwise(frames)]
            self._add([(255 - float(np.mean(differences))) / 255], video)

    def _nothing(self) -> str:
        if self.left_out:
            return f"{self.name}: none of {self.left_out} videos holds still; ask for still scenes, or take all videos"
        return super()._nothing()

    def _settings(self) -> Protocol:
        if not self.static_only:
            return {"videos": "all"}
        settings: Protocol = {"videos": "static", "static_filter": "VBench's rule"}
        return settings | PROTOCOL


class MotionSmoothness(ClipScores):
    """How well every second frame follows from its neighbours. Offline form of VBench's motion smoothness.

    The odd frames are dropped and rebuilt, here by optical flow (`interpolate`) where VBench has the network AMT; the
    score is (255 - mean |frame - rebuilt|) / 255 on grey levels. 1 = still, or motion that the flow follows exactly.
    """

    name = "motion_smoothness_offline"
    better = "higher"
    needs = frozenset[Need]({"clips", "flow"})

    def update(self, video: Tensor) -> None:
        """Add videos (B, 3, T, H, W) of at least three frames."""
        for clip in unit_pixels(video, frames=3):
            frames = frames_of(clip)
            rebuilt = interpolate(frames[::2])
            errors = [_absolute_error(a, b) for a, b in zip(frames[1::2][: len(rebuilt)], rebuilt, strict=True)]
            self._add([(255 - float(np.mean(errors))) / 255], video)

    def _settings(self) -> Protocol:
        settings: Protocol = {"instead_of": "VBench: AMT-S", "interpolation": "flow, linear motion, mean of both sides"}
        return settings | PROTOCOL


def interpolate(frames: np.ndarray) -> np.ndarray:
    """The frames half-way between neighbours: (N, H, W, 3) uint8 -> (N - 1, H, W, 3) uint8.

    Both neighbours are warped to the middle and averaged, by the flows from there that linear motion gives (Jiang et
    al. 2018, eq. 4, at t = 1/2): to the first -F01 / 4 + F10 / 4, to the second F01 / 4 - F10 / 4.
    """
    forward, backward = (torch.from_numpy(flow(frames, backward=b)) for b in (False, True))
    to_first = (backward - forward) / 4
    images = torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, 1).float()
    middle = (warp(images[:-1], to_first) + warp(images[1:], -to_first)) / 2
    return middle.round().clamp(0, 255).to(torch.uint8).movedim(1, -1).numpy()


class DynamicDegree(ClipScores):
    """The share of videos in which something moves fast enough. Offline form of VBench's dynamic degree.

    VBench's rule, with other flow (RAFT there): the video at about 8 frames per second (every round(fps / 8)th frame);
    a pair of neighbouring frames moves where the mean of its 5% largest flow magnitudes is above 6 pixels at a shorter
    side of 256, more or less in proportion; a video of T such frames is dynamic where at least round(T / 4) pairs
    move. At least one here: VBench's own rule asks for none of a video of two frames.

    Args:
        fps: frame rate of the videos.
    """

    name = "dynamic_degree_offline"
    assumed = "higher"  # more motion is neither good nor bad, but VBench counts it as good
    needs = frozenset[Need]({"clips", "flow"})

    def __init__(self, fps: float = 8.0) -> None:
        if not fps > 0:
            raise InputError(f"expected a frame rate above 0, got {fps}")
        super().__init__()
        self.fps = fps

    @classmethod
    def build(cls, setup: Setup) -> DynamicDegree:
        """At the rate of the clips."""
        assert setup.fps is not None
        return cls(setup.fps)

    def update(self, video: Tensor) -> None:
        """Add videos (B, 3, T, H, W); a score is 1 for a dynamic video and 0 for another."""
        every = max(1, round(self.fps / 8))
        for clip in unit_pixels(video, frames=every + 1):
            self._add([float(is_dynamic(frames_of(clip)[::every]))], video)

    def _interval(self) -> Interval | None:
        return wilson(sum(self._scores), len(self._scores))

    def _settings(self) -> Protocol:
        settings: Protocol = {
            "instead_of": "VBench: RAFT",
            "threshold": "6 pixels of 256",
            "pairs": "a quarter of the frames",
        }
        return settings | {"fps": self.fps} | PROTOCOL


def is_dynamic(frames: np.ndarray) -> bool:
    """The rule of `DynamicDegree` on frames (T, H, W, 3) uint8 at about 8 frames per second."""
    limit = 6.0 * min(frames.shape[1:3]) / 256
    needed = max(1, round(4 * len(frames) / 16))
    return int((top_flow(flow(frames)) > limit).sum()) >= needed


def _absolute_error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.int16) - b.astype(np.int16)).mean())
