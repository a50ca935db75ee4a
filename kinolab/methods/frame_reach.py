"""Attention across frames without training: a run says which frames each frame's self-attention reads.

With the first frame alone, as Text2Video-Zero (Khachatryan et al. 2023, arXiv:2303.13439), or the first and the
previous one, as Tune-A-Video (Wu et al. 2023, arXiv:2212.11565), an image model's frames come out alike.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from kinolab.config import Config as BaseConfig
from kinolab.contracts.method import Call, Method, Predict, Run
from kinolab.contracts.reach import Lists, Reach, ReachName
from kinolab.errors import InputError


class FrameReachConfig(BaseConfig):
    """Which frames are read."""

    frames: ReachName | Lists
    """own, first, first_previous, all or first_last; or for each frame of tokens the frames that it reads."""
    beside: bool = False
    """Let control networks beside the denoiser read them too, as Text2Video-Zero does; ControlVideo does not."""


class FrameReach(Method):
    """Makes a denoiser's frames read others than in training."""

    Config: ClassVar[type[BaseConfig]] = FrameReachConfig
    option = "reach"
    decides = ("reach",)
    config: FrameReachConfig

    def network(self, inner: Predict, run: Run) -> Predict:
        """The same calls with the reach among their options."""
        reach, frames = Reach(self.config.frames), run.denoiser.token_frames(run.shape[2])
        if reach.lists(frames) == run.denoiser.reach.lists(frames):
            note = f"reach {_said(reach)}: this model's frames read just that as they are, so that it changes nothing"
            warnings.warn(note, stacklevel=2)
            return inner

        def predict(call: Call) -> dict[str, Tensor]:
            options = replace(call.options, reach=reach, reach_beside=self.config.beside)
            return inner(replace(call, options=options))

        return predict

    def check(self, run: Run) -> None:
        """Raises InputError for a denoiser that can't be told, and for lists of another number of frames."""
        if getattr(run.denoiser, "reach", None) is None:
            name = type(run.denoiser).__name__
            raise InputError(f"reach: the frames of {name} read what they were trained to read: leave it out")
        Reach(self.config.frames).lists(run.denoiser.token_frames(run.shape[2]))


def _said(reach: Reach) -> str:
    frames = reach.frames
    return str([list(read) for read in frames]) if isinstance(frames, tuple) else str(frames)
