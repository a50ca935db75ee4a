"""Groups of pictures: where a clip is cut into groups, and which frame of a group is its key frame."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kinolab.config import Config
from kinolab.layers.scene_cuts import CutDetector

KeyFrameRule = Literal["first", "fixed", "scene", "best"]


class KeyFrameConfig(Config):
    """Where groups begin, and which frame of each is its key frame."""

    rule: KeyFrameRule = "first"
    """`first` of each group of the model's length; `fixed`: a key frame every `period` frames, which begins a group;
    `scene`: as first, and a cut begins a new group; `best`: as scene, with the frame of each group as its key frame
    that the group is reconstructed best with."""
    period: int | None = Field(None, ge=1)
    """Frames from one key frame to the next, for `fixed`."""
    cuts: Literal["builtin", "scenedetect", "none"] = "builtin"
    """What finds cuts for `scene` and `best`: the change from frame to frame; PySceneDetect (extra `train`); or nothing
    (for `best`, which then moves key frames alone)."""
    cut_threshold: float = Field(0.08, gt=0, lt=1)
    """The change (0 to 1) above which `builtin` sees a cut. Clips of the toy world need about 0.03."""
    cut_contrast: float = Field(2.5, ge=1)
    """How many times a cut's change is that of the frames before, so that fast motion is none."""
    candidates: int | None = Field(None, ge=1)
    """How many frames of a group `best` tries, evenly spread; none = all that may be key frames (every r-th)."""

    @model_validator(mode="after")
    def _check(self) -> KeyFrameConfig:
        if (self.rule == "fixed") != (self.period is not None):
            raise ValueError("period belongs to rule fixed, and rule fixed needs a period")
        if self.rule == "scene" and self.cuts == "none":
            raise ValueError("rule scene needs cuts builtin or scenedetect; without cuts it is rule first")
        return self

    @property
    def finds_cuts(self) -> bool:
        """Whether a cut begins a group."""
        return self.rule in ("scene", "best") and self.cuts != "none"

    def detector(self) -> CutDetector:
        """A fresh built-in detector of cuts."""
        return CutDetector(self.cut_threshold, self.cut_contrast)


@dataclass(frozen=True)
class Group:
    """One coded group: its first frame's number in the clip, its frames, its key frame's place in it, and its latents.

    latents: (1, C', n, h, w) in the order of time; the key frame's is number key / temporal_ratio.
    """

    start: int
    frames: int
    key: int
    latents: Tensor

    @property
    def key_frame(self) -> int:
        """The key frame's number in the clip."""
        return self.start + self.key


@dataclass(frozen=True)
class Groups:
    """A clip as coded groups, in order and without gaps."""

    groups: tuple[Group, ...]

    @property
    def frames(self) -> int:
        """Frames of the clip."""
        return sum(group.frames for group in self.groups)

    @property
    def latent_frames(self) -> int:
        """Latents of the clip in all, key frames counted."""
        return sum(group.latents.shape[2] for group in self.groups)

    @property
    def boundaries(self) -> list[int]:
        """The number of each group's first frame."""
        return [group.start for group in self.groups]

    @property
    def key_frames(self) -> list[int]:
        """The number of each group's key frame in the clip."""
        return [group.key_frame for group in self.groups]


def latents_in_group(frames: int, ratio: int) -> int:
    """The key frame's latent and one for every `ratio` frames of the rest, the last of which may be fewer."""
    return 1 + -(-(frames - 1) // ratio)


def key_candidates(frames: int, ratio: int, most: int | None = None) -> list[int]:
    """The frames of a group that may be its key frame: every `ratio`-th, so that none costs a latent more.

    At most `most` of them, evenly spread from the first one on.
    """
    every = list(range(0, frames, ratio))
    if most is None or most >= len(every):
        return every
    return [every[round(k * (len(every) - 1) / max(most - 1, 1))] for k in range(most)]


def cut_into_groups(
    chunks: Iterable[Tensor], config: KeyFrameConfig, longest: int, cuts: Collection[int] | None = None
) -> Iterator[Tensor]:
    """The groups (1, 3, g, H, W) of a clip that arrives as chunks (1, 3, t, H, W); holds one group and one chunk.

    longest: frames of a group at most (for rule fixed the period takes its place); cuts: the first frames of new
    scenes where they are known; else the built-in detector finds them.
    """
    most = config.period or longest
    detector = config.detector() if config.finds_cuts and cuts is None else None
    held: list[Tensor] = []
    number = 0
    for chunk in chunks:
        for frame in chunk.split(1, dim=2):
            known = config.finds_cuts and cuts is not None and number in cuts
            new_scene = detector.begins_scene(frame[0, :, 0]) if detector is not None else known
            if held and (new_scene or len(held) == most):
                yield torch.cat(held, dim=2)
                held = []
            held.append(frame)
            number += 1
    if held:
        yield torch.cat(held, dim=2)


def longest_scene(video: Tensor, config: KeyFrameConfig) -> Tensor:
    """The longest stretch without a cut of a clip (3, T, H, W), by the built-in detector; the first of equals."""
    detector = config.detector()
    edges = [0, *(t for t in range(video.shape[1]) if detector.begins_scene(video[:, t])), video.shape[1]]
    start, stop = max(pairwise(edges), key=lambda edge: edge[1] - edge[0])
    return video[:, start:stop]
