"""A video of control maps: a clip, or maps of one, tell frame by frame where something is (`kinolab control`).

What is asked for becomes an ordinary request: the maps are its conditions, the clip's length and rate its own, and the
way in which an image model's frames are kept together a method. So it is recorded and made again like any other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from kinolab import video
from kinolab.conditioning import CONDITIONS
from kinolab.conditioning.control import Control, MadeConfig
from kinolab.config import Config, apply_overrides, load_config
from kinolab.contracts.events import Events, Listener, events_of
from kinolab.diffusion import SAMPLERS, SamplerConfig
from kinolab.errors import InputError
from kinolab.generation.generate import generate
from kinolab.generation.request import GenerateConfig, beside, input_files, load_asked
from kinolab.methods import ControlVideo, checked
from kinolab.models import VideoModel

Way = Literal["auto", "controlvideo", "text2video_zero", "plain"]
ASPECT = 0.02
"""By how much the shapes of maps and of the video may differ, as a share: what cutting to multiples of 8 makes."""


class ControlledConfig(Config):
    """The clip, what is made of it, and how frames are kept together."""

    clip: Path
    """A clip that maps are made of, or maps."""
    maps: tuple[str, ...] = ()
    """What is told: a condition that the model takes, as canny; another way of making its map behind a =, as
    depth={kind: onnx, file: FILE}; or that way alone, for the only one it takes. None = that one, by its own way."""
    ready: bool = False
    """The clip shows maps already, which are taken as they are."""
    method: Way = "auto"
    """What keeps an image model's frames together: controlvideo, text2video_zero, or plain = nothing; auto is
    controlvideo for an image model, and plain for a model that models time itself."""


def control(
    config: GenerateConfig,
    asked: ControlledConfig,
    out: Path,
    *,
    model: VideoModel | None = None,
    events: Listener = None,
) -> list[Path]:
    """Generate the videos of a request with a clip's control maps. Returns the files written.

    config: a request as `request_of` makes it; `asked` fills in conditions, frames, rate and method where they are
    open. model: as of `generate`.

    Raises:
        InputError: for a model that takes no maps, a clip that can't be read or is too short, and maps of another
            shape; nothing is written then.
    """
    for path in (asked.clip, *input_files(config)):
        if not path.exists():  # before a model is loaded for it
            raise InputError(f"{path}: no such file")
    told = events_of(events)
    model = load_asked(config, told) if model is None else beside(model, config)
    return generate(controlled(config, asked, model, told), out, model=model, events=told)


def controlled(config: GenerateConfig, asked: ControlledConfig, model: VideoModel, events: Events) -> GenerateConfig:
    """The request with what the clip and the model say filled in; what is asked for stays.

    Raises:
        InputError: as `control`.
    """
    told = _told(asked, config.model, map_conditions(model))
    changes: dict[str, Any] = _shape(config, asked, model, events) | {"conditions": told | config.conditions}
    image = model.denoiser.within_frames
    way = asked.method if asked.method != "auto" else "controlvideo" if image else "plain"
    if way != "plain" and way not in config.methods:
        changes["methods"] = {**config.methods, **checked({way: None})}
    settled = config.model_copy(update=changes)
    return settled.model_copy(update={"sampler": _sampler(settled, events)})


def map_conditions(model: VideoModel) -> tuple[str, ...]:
    """The conditions of control maps that a model takes."""
    found = (name for stage in model.cascade for name in stage.spec.ports if name in CONDITIONS)
    return tuple(dict.fromkeys(name for name in found if issubclass(CONDITIONS.get(name), Control)))


def _told(asked: ControlledConfig, folder: str, takes: Sequence[str]) -> dict[str, Any]:
    """The conditions that a model takes, and what it is told of the clip as each."""
    if not takes:
        raise InputError(
            f"{folder}: takes no control maps; put a control network beside it: --control canny=FILE OR FOLDER"
        )
    clip, found = str(asked.clip), dict[str, Any]()
    if not asked.maps and len(takes) > 1:
        raise InputError(f"{folder}: takes maps of several kinds, {', '.join(takes)}: name one or more by --map")
    for text in asked.maps or takes:
        name, sign, way = text.partition("=")
        if not sign and name not in takes and len(takes) == 1:
            name, way = takes[0], name
        if name not in takes:
            raise InputError(f"--map {text}: {folder} takes {', '.join(takes)}")
        by = apply_overrides({}, [f"by={way}"])["by"] if way else None
        if by is not None and asked.ready:
            raise InputError(f"--map {text}: maps that are ready are taken as they are; leave out the way or --ready")
        if by is not None:
            load_config(MadeConfig, {"clip": clip, "by": by}, name=f"--map {name}")
        found[name] = {"map": clip} if asked.ready else clip if by is None else {"clip": clip, "by": by}
    return found


def _shape(config: GenerateConfig, asked: ControlledConfig, model: VideoModel, events: Events) -> dict[str, Any]:
    """Frames, size and rate of the video: the clip's where the request leaves them open."""
    clip, made, spec = asked.clip, model.output.config, model.output.autoencoder.spec
    info, size = video.probe(clip), config.size or made.size
    rate = config.fps or info.fps
    if asked.ready and abs(size[1] * info.height / (size[0] * info.width) - 1) > ASPECT:
        raise InputError(
            f"{clip}: maps of {info.height} x {info.width} (height x width) don't fit a video of {size[0]} x "
            f"{size[1]}: ask for --size of their shape, such as {_fitting(info, size, spec.spatial_ratio)}"
        )
    if asked.ready and (info.height, info.width) != size:
        stored, made_of = f"{info.height} x {info.width}", f"{size[0]} x {size[1]}"
        events.note(f"{clip}: maps of {stored} (height x width) are resized to the video's {made_of}")
    if config.fps is not None and abs(config.fps / info.fps - 1) > 1e-3:
        change = "left out" if config.fps < info.fps else "repeated"
        events.note(f"{clip}: has {info.fps:g} frames per second, of which some are {change} for {config.fps:g}")
    frames, there = config.frames, _frames(clip, info, config.fps)
    if frames is not None and frames > there:
        raise InputError(f"{clip}: has {there} frames at {rate:g} fps, and {frames} are asked for: ask for fewer")
    if frames is None:
        window = None if model.denoiser.within_frames else made.frames
        frames = spec.snap_frames(there if window is None else min(there, window))
        if frames < there:
            why = f"this model makes {made.frames} at once" if window is not None else "by the autoencoder's groups"
            events.note(f"{clip}: the first {frames} of {there} frames are taken, as {why}")
    return {"frames": frames, "size": size, "fps": rate}


ROUNDED = 2e-3
"""Seconds by which a container's times are rounded at most: what is shown for less is no frame."""


def _frames(clip: Path, info: video.VideoInfo, fps: float | None) -> int:
    """The frames of a clip, as they are stored or at another rate."""
    if info.frames is None or info.duration is None:
        info = video.probe(clip, exact=True)
    assert info.frames is not None
    if fps is None or info.duration is None:
        return info.frames
    return max(1, math.ceil((info.duration - ROUNDED) * fps))


def _fitting(info: video.VideoInfo, size: tuple[int, int], ratio: int) -> str:
    """A size of the maps' shape and about as many pixels as the one that is made, in multiples of the ratio."""
    scale = (size[0] * size[1] / (info.height * info.width)) ** 0.5
    sides = (max(1, round(scale * side / ratio)) * ratio for side in (info.height, info.width))
    return "x".join(map(str, sides))


def _sampler(config: GenerateConfig, events: Events) -> SamplerConfig | None:
    """The request's sampler; ddim of as many steps where frames are smoothed and the model's own can't."""
    how = config.sampler
    smoothed = any(method.keeps_noise for method in config.wrappers if isinstance(method, ControlVideo))
    if how is None or not smoothed or SAMPLERS.get(how.name).keeps_noise:
        return how
    events.note(f"frames are smoothed, which {how.name} can't: sampled by ddim")
    return load_config(SamplerConfig, {"name": "ddim", "steps": how.steps, "spacing": how.spacing})
