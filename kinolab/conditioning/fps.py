"""The frame rate: a vector of frames per second, 0 for a still image."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from kinolab.conditioning.base import Condition, Draws, Setting
from kinolab.contracts.conditions import Conditions
from kinolab.contracts.examples import Example
from kinolab.contracts.request import Request


class Fps(Condition[float]):
    """How fast a clip runs. It is told always: every clip has a rate, so it is never dropped in training."""

    name = "fps"

    def asks(self, request: Request) -> bool:
        """Never: a rate is that of the file too, which every model can be asked for."""
        return False

    def asked(self, request: Request, setting: Setting) -> float:
        """The request's rate, or that of the training clips."""
        still = (request.frames or setting.frames) == 1
        usual = setting.spec.ports[self.name].usual
        if request.fps and usual and usual[0] <= setting.fps <= usual[1] and not usual[0] <= request.fps <= usual[1]:
            text = f"fps {request.fps:g}: the model is told it, and was trained on {usual[0]:g} to {usual[1]:g}"
            warnings.warn(text, stacklevel=2)
        return 0.0 if still else float(request.fps or setting.fps)

    def shown(self, examples: Sequence[Example], setting: Setting, draws: Draws) -> Sequence[float]:
        """The examples' rates."""
        return [0.0 if clip_frames(e, setting) == 1 else float(e.fps) for e in examples]

    def tell(self, told: Sequence[float | None], setting: Setting, before: Conditions, draws: Draws) -> Conditions:
        """Rates (B,)."""
        return Conditions(fps=torch.tensor(list(told), device=setting.device))


def clip_frames(example: Example, setting: Setting) -> int:
    """Frames of a clip, encoded or not."""
    frames = example.clip.shape[1]
    return setting.autoencoder.spec.pixel_frames(frames) if example.encoded else frames
