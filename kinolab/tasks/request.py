"""Requests for tasks: files on disk and what shall be given of them -> a canvas and the windows that fill it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from kinolab import video
from kinolab.config import Config
from kinolab.errors import InputError
from kinolab.layers.frame_rule import frames_above, frames_below
from kinolab.tasks.animate import place_images
from kinolab.tasks.complete import box_mask, picture_mask
from kinolab.tasks.draw import TasksConfig
from kinolab.tasks.extend import Canvas, backward, hierarchical, looped, outward, sliding
from kinolab.tasks.interpolate import every_nth, keyframe_mask
from kinolab.tasks.predict import past_mask, predict_mask

Plan = Callable[[int, int, int], list[list[int]]]
"""(frames in all, frames of a window, overlap) -> windows."""


class GivenConfig(Config):
    """What is given and what is to be generated; the fields that a task does not use are refused."""

    task: Literal["predict", "interpolate", "animate", "complete", "extend"]
    """What is asked for."""
    video: Path | None = None
    """The clip, for every task but animate."""
    images: tuple[Path, ...] = ()
    """animate: the images, of any size and origin."""
    at: tuple[int, ...] = ()
    """animate: the frame that each image stands at, -1 = the last; none = the first, or spread from first to last."""
    given: int | None = Field(None, ge=1)
    """predict: how many frames of the clip are given; none = 8, or all but one of a shorter request."""
    past: bool = False
    """predict, extend: generate what lies before the given frames instead of what follows."""
    every: int | None = Field(None, ge=2)
    """interpolate: every n-th frame of the clip is given and the others are generated."""
    insert: int | None = Field(None, ge=1)
    """interpolate: so many new frames between each two of the clip."""
    keyframes: tuple[int, ...] = ()
    """interpolate: the numbers of the given frames."""
    mask: Path | None = None
    """complete: what is white is generated, in a picture for all frames, a folder with one for each, or a video, which
    is timed as the clip is. Masks of 0 and 1, of labels or palettes, and in transparency are taken as what they are."""
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    """complete: left, top, right, bottom in pixels of the made video; what is inside is generated."""
    start: float = Field(0.0, ge=0)
    """Seconds of the clip that are left out at its beginning."""
    overlap: int | None = Field(None, ge=1)
    """Frames that a window shares with the one before, where the video is longer than the model's; none = what it
    was trained to go on from, or a third."""
    stride: int | None = Field(None, ge=2)
    """extend: first generate every n-th frame, then what lies between (two passes)."""
    loop: bool = False
    """extend: the end goes over into the beginning."""
    resize: Literal["crop", "pad", "stretch"] = "crop"
    """How pictures are fitted to the size of the made video."""
    keep: Literal["model", "exact"] = "model"
    """Given pixels as the decoder makes them, which fits what is generated, or exactly as they were given."""
    method: Literal["auto", "trained", "reconstruction", "replacement"] = "auto"
    """How the given part is taken; auto = as trained, or by reconstruction guidance where the model was not."""
    weight: float | None = Field(None, ge=0)
    """Weight of reconstruction guidance."""
    error: Literal["latents", "pixels"] | None = None
    """Where reconstruction guidance measures its error."""

    @model_validator(mode="after")
    def _check(self) -> GivenConfig:
        uses = {
            "predict": {"video", "given", "past", "overlap"},
            "interpolate": {"video", "every", "insert", "keyframes", "overlap"},
            "animate": {"images", "at", "overlap"},
            "complete": {"video", "mask", "boxes", "overlap"},
            "extend": {"video", "past", "overlap", "stride", "loop"},
        }
        every = set().union(*uses.values())
        given = {name for name in every if getattr(self, name) not in (None, (), False)}
        if self.task == "animate" and self.start:
            raise ValueError("start: not for the task animate")
        if (self.weight is not None or self.error is not None) and self.method != "reconstruction":
            raise ValueError("weight and error are for reconstruction guidance: use method reconstruction")
        if extra := sorted(given - uses[self.task]):
            raise ValueError(f"{', '.join(extra)}: not for the task {self.task}")
        if self.task == "animate" and not self.images:
            raise ValueError("animate: expected one image or more")
        if self.task != "animate" and self.video is None:
            raise ValueError(f"{self.task}: expected a clip")
        if self.task == "interpolate" and sum(map(bool, (self.every, self.insert, self.keyframes))) != 1:
            raise ValueError("interpolate: expected one of every, insert and keyframes")
        if self.task == "complete" and bool(self.mask) == bool(self.boxes):
            raise ValueError("complete: expected a mask or boxes, one of the two")
        if self.task == "extend" and sum(map(bool, (self.past, self.stride, self.loop))) > 1:
            raise ValueError("extend: past, stride and loop exclude each other")
        return self

    def files(self) -> list[Path]:
        """The files that the request reads."""
        return [p for p in (self.video, self.mask, *self.images) if p is not None]


@dataclass(frozen=True)
class Prepared:
    """A request as it runs: the canvas of one clip, the windows that fill it, its rate, and what to know about it."""

    canvas: Canvas
    windows: list[list[int]]
    fps: float
    notes: tuple[str, ...] = ()
    shown: slice = field(default_factory=lambda: slice(None))
    """The frames of the canvas that make the video."""


@dataclass(frozen=True)
class Shape:
    """What a request is fitted to: frames of a model's clip, and the rule for shorter ones; size; rate; the tasks that
    it was trained on, within which what a request leaves open is chosen; and whether each of its windows begins with
    one frame and knows no other (`from_one`)."""

    window: int
    size: tuple[int, int]
    fps: float
    temporal_ratio: int
    group_frames: int | None = None
    tasks: TasksConfig | None = None
    from_one: bool = False

    def snap(self, frames: int) -> int:
        """The largest valid number of frames not above `frames`: any from a window on, else by the rule."""
        return frames if frames >= self.window else frames_below(frames, self.temporal_ratio, group=self.group_frames)


def prepare(config: GivenConfig, shape: Shape, frames: int | None) -> Prepared:
    """Read a request's files and lay them out on a canvas of `frames` frames (none = the task's own choice).

    Raises:
        InputError: for files that can't be read, clips that are too short, and masks that are empty or full.
    """
    build = {
        "predict": _predict, "interpolate": _interpolate, "animate": _animate, "complete": _complete, "extend": _extend
    }  # fmt: skip
    prepared = build[config.task](config, shape, frames)
    mask = prepared.canvas.mask
    if not bool((mask == 0).any()):
        raise InputError("the mask is full: nothing of the video is given; use kinolab generate, or a smaller mask")
    if not bool((mask == 1).any()):
        raise InputError("the mask is empty: everything is given and nothing is left to generate")
    return prepared


def _predict(config: GivenConfig, shape: Shape, frames: int | None) -> Prepared:
    total = shape.window if frames is None else frames
    clip = _read(config, shape, most=max(total, config.given or 0))
    given = config.given if config.given is not None else min(_known(config, shape, 8), total - 1, clip.shape[1])
    if given > clip.shape[1]:
        raise InputError(
            f"{config.video}: {given} frames shall be given, but it has {clip.shape[1]} at {shape.fps:g} fps"
        )
    canvas = torch.zeros(3, total, *shape.size)
    if config.past:
        canvas[:, total - given :] = clip[:, :given]
        mask = past_mask(total, *shape.size, given)
    else:
        canvas[:, :given] = clip[:, :given]
        mask = predict_mask(total, *shape.size, given)
        if total > shape.window and _limited(config, shape):
            return _onward(config, shape, canvas, mask, given)
    return _prepared(config, shape, canvas, mask, backward if config.past else sliding)


def _interpolate(config: GivenConfig, shape: Shape, frames: int | None) -> Prepared:
    if config.insert is not None:
        step = config.insert + 1
        if frames is not None and (frames - 1) % step:
            near = (frames - 1) // step * step + 1
            raise InputError(
                f"--insert {config.insert} gives 1 + {step}*k frames, and {frames} are asked for; use {near}"
            )
        stored = _read(config, shape, most=None if frames is None else 1 + (frames - 1) // step, timed=False)
        rate = video.probe(config.files()[0]).fps * step
        total = 1 + (stored.shape[1] - 1) * step
        if total < 1 + step:
            raise InputError(f"{config.video}: expected two frames or more to put new ones between")
        if frames is not None and total < frames:
            raise InputError(f"{config.video}: {frames} frames are asked for, and it gives {total}")
        canvas = torch.zeros(3, total, *shape.size)
        canvas[:, ::step] = stored
        mask = keyframe_mask(total, *shape.size, every_nth(total, step))
        return _fitted(config, shape, canvas, mask, fps=rate)
    clip = _read(config, shape, most=frames)
    canvas, notes = _snapped(clip, shape, frames)
    total = canvas.shape[1]
    given = every_nth(total, config.every) if config.every is not None else list(config.keyframes)
    return _fitted(config, shape, canvas, keyframe_mask(total, *shape.size, given), notes=notes)


def _animate(config: GivenConfig, shape: Shape, frames: int | None) -> Prepared:
    total = shape.window if frames is None else frames
    images = [_image(path, config, shape) for path in config.images]
    n = len(images)
    at = list(config.at) or [round(k * (total - 1) / max(n - 1, 1)) for k in range(n)]
    canvas, mask = place_images(images, at, total)
    if total > shape.window and shape.from_one and at == [0]:
        return _onward(config, shape, canvas, mask, 1, _resized(config, shape))
    return _prepared(config, shape, canvas, mask, sliding, _resized(config, shape))


def _complete(config: GivenConfig, shape: Shape, frames: int | None) -> Prepared:
    canvas, notes = _snapped(_read(config, shape, most=frames), shape, frames)
    total = canvas.shape[1]
    if config.boxes:
        return _fitted(config, shape, canvas, box_mask(total, *shape.size, config.boxes), notes=notes)
    assert config.mask is not None
    # A folder has a picture for each frame of the made video; a video is timed as the clip is, from its beginning on.
    found = video.read_mask(config.mask, shape.size, resize=config.resize, start=config.start, fps=shape.fps)
    generated = torch.from_numpy(found.generated).float()[:total]
    notes += (f"mask {config.mask.name}: {found.rule}",)
    return _fitted(config, shape, canvas, picture_mask(generated, total), notes=notes)


def _extend(config: GivenConfig, shape: Shape, frames: int | None) -> Prepared:
    clip = _read(config, shape, most=None)
    have = clip.shape[1]
    overlap = _overlap(config, shape)
    total = have + shape.window - overlap if frames is None else frames
    if frames is None and config.loop:
        total = max(total, shape.window + 1)
    if frames is None and config.stride is not None:
        total = 1 + config.stride * max(shape.window - 1, -(-(total - 1) // config.stride))
    if total <= have:
        raise InputError(
            f"{config.video}: has {have} frames at {shape.fps:g} fps; expected --frames above that, got {total}"
        )
    canvas = torch.zeros(3, total, *shape.size)
    place = slice(total - have, total) if config.past else slice(0, have)
    canvas[:, place] = clip
    mask = torch.ones(total, *shape.size)
    mask[place] = 0
    if config.stride is not None:
        windows = hierarchical(total, shape.window, config.stride, overlap, _between(config, shape, overlap))
        return Prepared(Canvas(canvas[None], mask[None, None]), windows, shape.fps)
    onward = _limited(config, shape) or (shape.from_one and config.overlap == 1)
    if total > shape.window and not config.past and not config.loop and onward:
        return _onward(config, shape, canvas, mask, have)
    return _prepared(config, shape, canvas, mask, backward if config.past else looped if config.loop else sliding)


def _known(config: GivenConfig, shape: Shape, usual: int) -> int:
    """How many first frames a window goes on from: the usual number, or the most that the model was trained with."""
    few = None if shape.tasks is None or config.past else shape.tasks.predict_frames
    return usual if few is None or config.task not in ("predict", "extend") else min(usual, few[1])


def _limited(config: GivenConfig, shape: Shape) -> bool:
    """Whether every window shall go on from as many frames as the model was trained with, and no more."""
    return config.overlap is None and shape.tasks is not None and shape.tasks.predict_frames is not None


def _onward(
    config: GivenConfig, shape: Shape, canvas: Tensor, mask: Tensor, known: int, notes: tuple[str, ...] = ()
) -> Prepared:
    """Windows from the last of the known first frames on; those beyond the video's end are made and left out."""
    total, overlap = canvas.shape[1], _overlap(config, shape)
    start, step = max(0, known - overlap), shape.window - overlap
    count = 1 + max(0, -(-(total - start - shape.window) // step))
    more = start + shape.window + (count - 1) * step - total
    canvas = torch.nn.functional.pad(canvas, (0, 0, 0, 0, 0, more))
    mask = torch.nn.functional.pad(mask, (0, 0, 0, 0, 0, more), value=1)
    windows = [list(range(first, first + shape.window)) for first in range(start, start + count * step, step)]
    return Prepared(Canvas(canvas[None], mask[None, None]), windows, shape.fps, notes, slice(0, total))


def _between(config: GivenConfig, shape: Shape, usual: int) -> int:
    """The frames that windows between key frames share: one, where that begins each with a key frame as in training."""
    steps = shape.tasks.steps if shape.tasks is not None else ()
    asked = config.every if config.insert is None else config.insert + 1
    step = asked if asked in steps else next(iter(steps), None)
    fits = step is not None and (shape.window - 1) % step == 0
    return 1 if config.overlap is None and fits else usual


def _overlap(config: GivenConfig, shape: Shape) -> int:
    """The frames that windows share: a third of a window, in whole latents, or what the model's training asks for."""
    if config.overlap is not None:
        if config.overlap >= shape.window:
            most, window = shape.window - 1, shape.window
            raise InputError(f"expected an overlap of 1 to {most} frames of the model's {window}, got {config.overlap}")
        return config.overlap
    r = shape.temporal_ratio
    third = max(1, min(shape.window - 1, 1 + round((shape.window / 3 - 1) / r) * r))
    return _between(config, shape, third) if config.task == "interpolate" else _known(config, shape, third)


def _prepared(
    config: GivenConfig, shape: Shape, canvas: Tensor, mask: Tensor, plan: Plan, notes: tuple[str, ...] = ()
) -> Prepared:
    total = canvas.shape[1]
    if total <= shape.window and plan is not looped:
        # Frames that fill the last latent are generated too, and left out at the end.
        valid = frames_above(total, shape.temporal_ratio, group=shape.group_frames)
        more = valid - total
        ends = (more, 0) if plan is backward else (0, more)
        canvas = torch.nn.functional.pad(canvas, (0, 0, 0, 0, *ends))
        mask = torch.nn.functional.pad(mask, (0, 0, 0, 0, *ends), value=1)
        shown = slice(more, valid) if plan is backward else slice(0, total)
        return Prepared(Canvas(canvas[None], mask[None, None]), [list(range(valid))], shape.fps, notes, shown)
    windows = plan(total, shape.window, _overlap(config, shape))
    if plan is sliding:
        windows = outward(windows, mask)
    return Prepared(Canvas(canvas[None], mask[None, None]), windows, shape.fps, notes, slice(0, total))


def _fitted(
    config: GivenConfig,
    shape: Shape,
    canvas: Tensor,
    mask: Tensor,
    *,
    fps: float | None = None,
    notes: tuple[str, ...] = (),
) -> Prepared:
    made = _prepared(config, shape, canvas, mask, sliding, notes)
    return made if fps is None else Prepared(made.canvas, made.windows, fps, notes, made.shown)


def _read(config: GivenConfig, shape: Shape, most: int | None, timed: bool = True) -> Tensor:
    """The clip (3, T, H, W) at the request's size, at the model's rate where `timed`, at most `most` frames of it."""
    assert config.video is not None
    rate = shape.fps if timed else None
    frames = video.iter_frames(config.video, start=config.start, fps=rate, size=shape.size, resize=config.resize)
    return video.to_tensor(np.stack([frame.image for frame in islice(frames, most)]))


def _image(path: Path, config: GivenConfig, shape: Shape) -> Tensor:
    """The first frame (3, H, W) of an image or video at the request's size."""
    return video.to_tensor(next(iter(video.iter_frames(path, size=shape.size, resize=config.resize))).image[None])[:, 0]


def _resized(config: GivenConfig, shape: Shape) -> tuple[str, ...]:
    """A note for every image of another shape than the made video's, which is more than scaled."""
    notes = (fitted_note(path, shape.size, config.resize) for path in config.images)
    return tuple(note for note in notes if note is not None)


def fitted_note(path: Path, size: tuple[int, int], resize: video.Resize) -> str | None:
    """What is done to pictures of another shape than a height and width, which is more than scaling; else None."""
    found, (height, width) = video.probe(path), size
    if abs(found.width * height - found.height * width) <= max(height, width):  # at most a pixel is lost
        return None
    done = {"crop": "cropped", "pad": "padded", "stretch": "stretched"}[resize]
    return f"{path.name}: {found.width} x {found.height} pixels, {done} to {width} x {height}"


def _snapped(clip: Tensor, shape: Shape, frames: int | None) -> tuple[Tensor, tuple[str, ...]]:
    """The clip with a number of frames that the autoencoder takes, and a note where some were left out."""
    have = clip.shape[1]
    if frames is not None and have < frames:
        raise InputError(f"the clip has {have} frames at {shape.fps:g} fps, and {frames} are asked for")
    fitting = shape.snap(have)
    if fitting == have:
        return clip, ()
    return clip[:, :fitting], (f"the last {have - fitting} of {have} frames are left out: the model takes {fitting}",)
