"""Which frames a frame's self-attention reads: data of a run, the same for every denoiser.

A frame here is a frame of tokens: of a denoiser that makes tubelets or pairs, as many latent frames as one holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from kinolab.contracts.causal import BlockCausal
from kinolab.errors import InputError

ReachName = Literal["own", "first", "first_previous", "all", "first_last"]
Lists = tuple[tuple[int, ...], ...]
"""For each frame the frames that it reads."""


@dataclass(frozen=True)
class Reach:
    """A rule by its name, or the frames that each frame reads, for clips of exactly so many frames.

    own: as an image model; first: the clip's first frame alone; first_previous: that and the one before (Wu et al.
    2023, Tune-A-Video); all: every frame; first_last: the two ends. A frame reads its own only where its list holds it.
    Of a block-causal rule (`kinolab.contracts.causal`) every frame reads its own block and blocks before it.

    >>> Reach("first_previous").lists(3)
    ((0, 0), (0, 0), (0, 1))

    Raises:
        InputError: for an unknown name, and for lists that are empty or name a frame that is not there.
    """

    frames: ReachName | Lists | BlockCausal

    def __post_init__(self) -> None:
        if isinstance(self.frames, str):
            if self.frames not in get_args(ReachName):
                known = ", ".join(get_args(ReachName))
                raise InputError(f"reach: expected {known}, or a list of frames per frame, got {self.frames!r}")
            return
        if isinstance(self.frames, BlockCausal):
            return
        count = len(self.frames)
        for frame, read in enumerate(self.frames):
            if not read or not all(0 <= other < count for other in read):
                raise InputError(
                    f"reach: frame {frame} reads {list(read)}: expected at least one frame, from 0 to {count - 1}"
                )

    def lists(self, count: int) -> Lists:
        """The frames that each of `count` frames reads; the rules give every frame as many.

        Raises:
            InputError: where the lists are those of another number of frames.
        """
        if isinstance(self.frames, BlockCausal):
            return self.frames.lists(count)
        if not isinstance(self.frames, str):
            if len(self.frames) != count:
                raise InputError(
                    f"reach: lists for {len(self.frames)} frames, but the clip has {count} frames of tokens"
                )
            return self.frames
        if self.frames == "own":
            return tuple((frame,) for frame in range(count))
        if self.frames == "first_previous":
            # The first frame twice where there is no other before: a softmax over doubled keys is that over the keys.
            return tuple((0, max(frame - 1, 0)) for frame in range(count))
        read = {"first": (0,), "all": tuple(range(count)), "first_last": (0, count - 1)}[self.frames]
        return (read,) * count
