"""A clip that a video is made from: the noise that a run begins with comes from it (`kinolab.methods.inversion`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from kinolab import video
from kinolab.config import Config, load_config
from kinolab.contracts.events import Events, Silent, advance
from kinolab.contracts.sampling import fields
from kinolab.diffusion import SAMPLERS, SamplerConfig
from kinolab.errors import InputError
from kinolab.methods import Inversion, InversionConfig
from kinolab.models import Request, VideoModel
from kinolab.models.stage import StageCodec
from kinolab.tasks.request import fitted_note

WINDOW = 32
"""Frames of a clip that an image model edits where nothing is said: it has no window of its own, but memory ends."""
INVERTED_BY = ("ddim", "euler")
"""Samplers whose own steps are turned back, so that a clip comes back as it was where nothing is edited."""


class SourceConfig(Config):
    """A clip, what it shows, and how the noise that the edit begins with is made of it."""

    video: Path
    """The clip that is edited."""
    start: float = Field(0.0, ge=0)
    """Seconds of the clip that are left out at its beginning."""
    resize: Literal["crop", "pad", "stretch"] = "crop"
    """How its frames are fitted to the size of the made video."""
    prompt: str | None = None
    """What the clip shows, told while it is inverted; none = nothing is told."""
    label: int | str | None = None
    """The class of what it shows, told while it is inverted; none = nothing is told."""
    way: Literal["invert", "noise"] = "invert"
    """How it becomes noise: invert, by the sampler's steps backwards, or noise, which is added to it (SDEdit)."""
    strength: float = Field(1.0, gt=0, le=1)
    """The share of the steps that is made, the last ones: less keeps more of the clip."""
    refine: int = Field(0, ge=0, le=100)
    """invert: fixed-point iterations of every step, each a call of the denoiser: the clip comes back more exactly."""

    def files(self) -> list[Path]:
        """The files that it reads."""
        return [self.video]

    @property
    def inversion(self) -> InversionConfig:
        """How a run begins with it.

        Raises:
            InputError: for fields that don't go together.
        """
        values = {name: getattr(self, name) for name in InversionConfig.model_fields}
        return load_config(InversionConfig, values, name="source")


def invertible(own: SamplerConfig, asked: Any, way: str) -> Any:
    """What is asked of the sampler, with ddim named where none is and the model's own can't be turned back."""
    given = fields("sampler", asked)
    if way != "invert" or "name" in given or turns_back(own):
        return asked
    return {**given, "name": "ddim"}


def turns_back(sampler: SamplerConfig) -> bool:
    """Whether a sampler's own steps are those that are turned back."""
    return sampler.name in INVERTED_BY and not sampler.eta and sampler.churn is None


def settled_shape(source: SourceConfig, model: VideoModel, frames: int | None, fps: float | None) -> tuple[int, float]:
    """The frames and the rate of an edit: what is asked for, or the clip's frames at the model's rate.

    An image model has no rate of its own: the clip's counts.

    Raises:
        InputError: for a clip that has fewer frames than are asked for, or more than the model's clips where no number
            is asked for; for a cascade, and for options that don't go together.
    """
    if model.stages:
        raise InputError("source: a cascade makes its videos in several runs; edit with a model of one stage")
    _ = source.inversion
    made, images = model.config, model.config.frames == 1
    rate = fps or (video.probe(source.video).fps if images else made.fps)
    most = WINDOW if images else made.frames
    shown = video.iter_frames(source.video, start=source.start, fps=rate)
    have = sum(1 for _ in islice(shown, frames or most + 1))
    if frames is not None:
        if have < frames:
            raise InputError(f"{source.video}: has {have} frames at {rate:g} fps, and {frames} are asked for")
        return frames, rate
    if have > most:
        of = "and an image model has no length of its own" if images else f"and this model makes {most}"
        raise InputError(
            f"{source.video}: has more than {most} frames at {rate:g} fps from {source.start:g} s on, {of}: say how "
            f"many are edited, as --frames {most}, and from which second on by --start"
        )
    return model.autoencoder.spec.snap_frames(have), rate


def source_notes(source: SourceConfig, frames: int, fps: float, size: tuple[int, int]) -> list[str]:
    """What to know of how a clip was fitted to a settled edit."""
    cut = fitted_note(source.video, size, source.resize)
    rest = sum(1 for _ in islice(video.iter_frames(source.video, start=source.start, fps=fps), frames + 1)) - frames
    more = f"{source.video.name}: the first {frames} frames at {fps:g} fps are edited, and those behind are left out"
    return [*([cut] if cut else []), *([more] if rest > 0 else [])]


def check_sampler(source: SourceConfig, sampler: SamplerConfig) -> None:
    """Raises InputError for a sampler that draws noise, after which an inverted clip can't come back."""
    drawn = sampler.eta or sampler.churn is not None or not SAMPLERS.get(sampler.name).deterministic
    if source.way == "invert" and drawn:
        raise InputError(
            f"source: {sampler.name} draws noise in its steps, and the noise that a clip was inverted to is lost: use "
            "sampler ddim with eta 0, or euler"
        )


def read_source(source: SourceConfig, frames: int, fps: float, size: tuple[int, int]) -> Tensor:
    """The clip (1, 3, T, H, W) in [-1, 1] as a settled edit takes it."""
    shown = video.iter_frames(source.video, start=source.start, fps=fps, size=size, resize=source.resize)
    return video.to_tensor(np.stack([frame.image for frame in islice(shown, frames)]))[None]


def begun_with(
    source: SourceConfig, model: VideoModel, requests: Sequence[Request], events: Events | None = None
) -> Inversion:
    """The method that begins the runs of settled requests, which agree in frames, size and rate, with the clip.

    events: hear of the steps of the inversion, and may stop it.
    """
    asked = requests[0]
    assert asked.frames is not None and asked.size is not None and asked.fps is not None
    clip = read_source(source, asked.frames, asked.fps, asked.size)
    return inversion_of(source.inversion, model, clip, [source_request(asked, source.prompt, source.label)], events)


def source_request(request: Request, prompt: str | None, label: int | str | None = None) -> Request:
    """What is told while a clip is inverted, for a request that is an edit of it: its own words, and all else alike."""
    return replace(request, prompt=prompt, label=label, negative=None)


@torch.no_grad()
def inversion_of(
    config: InversionConfig,
    model: VideoModel,
    clip: Tensor,
    requests: Sequence[Request],
    events: Events | None = None,
) -> Inversion:
    """The method that begins runs with clips (B, 3, T, H, W) in [-1, 1], told on the way what as many requests say."""
    told = events if events is not None else Silent()
    return Inversion(
        config,
        clean=StageCodec(model).encode(clip),
        conditions=model.conditions(requests),
        diffusion=model.diffusion,
        progress=lambda step, steps: advance(told, step, steps),
    )


def way_of(asked: Any) -> str:
    """The way that is asked for in the values of a source, or in a whole one."""
    return str(asked.get("way", "invert") if isinstance(asked, Mapping) else getattr(asked, "way", "invert"))
