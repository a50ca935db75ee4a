"""Methods that are shown a clip beside their prompt: a control map of it (ControlVideo), or itself, to be edited
(inversion, Tune-A-Video).

So that they stand beside methods that are told a prompt alone, they are asked for the same held-out clips of the toy
world. A map is of the clip whose prompt is asked. An edit is shown the clip, and asked for the same motion by other
looks: one of its objects has another colour, another shape, or both. In both cases it is known where everything should
be, which no prompt says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from kinolab import video
from kinolab.config import Config
from kinolab.contracts.events import Listener
from kinolab.errors import InputError
from kinolab.evaluation.control import MEASURES, Followed, followed
from kinolab.evaluation.edits import Fit, Task, edit_clips
from kinolab.evaluation.toy_protocols import EDITS, EditWay
from kinolab.generation.request import SamplingConfig
from kinolab.metrics.base import MetricValue
from kinolab.metrics.summaries import scores_of
from kinolab.models import Request, VideoModel
from kinolab.toyworld.clips import WorldClip, WorldConfig, edited_clip
from kinolab.toyworld.words import COLOURS, SHAPES


class ShownConfig(Config):
    """What of each held-out clip a model is shown: a map, or the clip itself."""

    map: str | None = None
    """The control map that is made of it, by the name of the model's condition: depth, edges, trajectory."""
    edit: EditWay | None = None
    """How the clip becomes the noise that an edit of it begins with."""
    fit: int | None = Field(None, ge=1)
    """edit: by a model that was tuned on the clip for so many steps, as `kinolab fit` does; none = the model itself."""

    @model_validator(mode="after")
    def _one(self) -> ShownConfig:
        if (self.map is None) == (self.edit is None):
            raise ValueError("expected either `map` (a control map of the clip), or `edit` (the clip, to be edited)")
        if self.fit is not None and self.edit is None:
            raise ValueError("fit: a model is tuned on the clip that it edits; set edit")
        return self


class Shown:
    """Makes clips of others by one method, and notes where the objects are.

    Args:
        fit: tunes the model on a clip, where the config says so.
    """

    def __init__(self, config: ShownConfig, fit: Fit | None = None) -> None:
        if config.fit is not None and fit is None:
            raise InputError("shown.fit: nothing tunes a model here")
        self.config, self.fit = config, fit if config.fit is not None else None
        self.followed: list[Followed] = []
        self._made: dict[tuple[bytes, str, str, int], Tensor] = {}

    def asked(self, world: WorldConfig, seed: int, clip: WorldClip) -> WorldClip:
        """The clip that is asked for where `clip`, of this world and seed, is shown."""
        return clip if self.config.edit is None else edited_clip(world, seed, other_looks(clip, seed))

    def make(
        self,
        model: VideoModel,
        clips: Sequence[WorldClip],
        asked: Sequence[WorldClip],
        requests: Sequence[Request],
        sampling: SamplingConfig,
        events: Listener = None,
    ) -> Tensor:
        """Videos (B, 3, T, H, W) of requests, each shown its clip.

        Raises:
            InputError: for a model that has no control network for the map.
        """
        if (port := self.config.map) is not None:
            if port not in model.spec.ports:
                known = ", ".join(model.network.controls) or "none"
                raise InputError(f"shown.map: {port}: this model has no control network that reads it; it has {known}")
            told = [
                replace(r, conditions={**r.conditions, port: video.to_tensor(clip.frames)})
                for r, clip in zip(requests, clips, strict=True)
            ]
            made = model.decode(model.sample_latents(told, events=events, **sampling.arguments)).cpu()
        else:
            made = self._edited(model, clips, asked, requests, sampling, events)
        for request, clip, frames in zip(requests, asked, video.to_uint8(made), strict=True):
            self.followed.append(followed("generated", request.seed, clip, frames))
        return made

    def _edited(
        self, model: VideoModel, clips: Sequence[WorldClip], asked: Sequence[WorldClip], requests: Sequence[Request],
        sampling: SamplingConfig, events: Listener,
    ) -> Tensor:  # fmt: skip
        way, tasks = self.config.edit, list[Task]()
        assert way is not None
        for r, clip, to in zip(requests, clips, asked, strict=True):
            if r.prompt is None:
                raise InputError("shown.edit: edits are asked for in words, and this model takes no prompts")
            tasks.append(Task(r.seed, "", r.seed, clip, to, (clip.caption, r.prompt)))
        if self.fit is None:
            return edit_clips(model, tasks, way, sampling, events=events)
        # Edits of one clip are the same whoever asks, and a tuning takes longest by far.
        return torch.cat([self._tuned(self.fit, task, way, sampling) for task in tasks])

    def _tuned(self, fit: Fit, task: Task, way: EditWay, sampling: SamplingConfig) -> Tensor:
        """An edit by a model that is tuned on the clip; one that was made before is not made again."""
        key = task.source.frames.tobytes(), *task.words, task.number if way.way == "noise" else 0
        if key not in self._made:
            own = fit(video.to_tensor(task.source.frames), task.words[0])
            self._made[key] = edit_clips(own, [task], way, sampling)
        return self._made[key]

    def scores(self) -> dict[str, MetricValue]:
        """How far the objects are from where they should be, and how many are near; a clip is one sample."""
        rows = [found.numbers() for found in self.followed]
        return scores_of({name: [row[name] for row in rows] for name in MEASURES[:3]})


def other_looks(clip: WorldClip, seed: int) -> tuple[tuple[str, str], ...]:
    """The looks (colour, shape) of a clip's objects, those of one of them changed: which, and how, by the seed.

    The new colour is no other object's.
    """
    looks = list(clip.request.objects)
    draw = np.random.default_rng([seed, 1])
    which, edit = int(draw.integers(len(looks))), EDITS[int(draw.integers(len(EDITS)))]
    colour, shape = looks[which]
    if edit in ("colour", "both"):
        taken = {c for c, _ in looks}
        free = [name for name in COLOURS if name not in taken]
        colour = free[int(draw.integers(len(free)))]
    if edit in ("shape", "both"):
        shape = next(name for name in SHAPES if name != shape)
    looks[which] = (colour, shape)
    return tuple(looks)


def shown_record(config: ShownConfig | None) -> dict[str, Any]:
    """What a record says of it; nothing where nothing is shown."""
    return {} if config is None else {"shown": config.model_dump(mode="json")}
