"""Videos that are written frame by frame while a causal model makes them, in memory that does not grow with them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kinolab import video
from kinolab.contracts.events import Events
from kinolab.errors import InputError
from kinolab.models import Request, VideoModel
from kinolab.models.streaming import causal_rule, stream_frames
from kinolab.runtime.files import new_folder, remove, write_text
from kinolab.runtime.interrupts import Asked, interruptible
from kinolab.runtime.sets import new_set

if TYPE_CHECKING:
    from kinolab.generation.request import GenerateConfig

GROWS = (".mp4", ".mov", ".mkv", ".webm", "")
"""Endings of files that can be played while they grow; without one, a folder of pictures."""


def check_stream(config: GenerateConfig, model: VideoModel) -> None:
    """Raises InputError where a request can't be streamed: by a model that is not causal, or with what needs a clip."""
    rule = causal_rule(model, config.model)
    if model.stages:
        raise InputError(f"{config.model}: a cascade's later stages take clips whole: leave --stream out")
    clips = {
        "given": config.given,
        "low_resolution": config.low_resolution,
        "source": config.source,
        "saliency": config.saliency,
        "reach": config.reach,
        "cache": config.cache,
        "control": config.control or None,
        "conditions": config.conditions or None,
    }
    wrong = next((name for name, value in clips.items() if value is not None), None)
    if wrong is not None:
        raise InputError(f"--stream makes a video from nothing but words, block by block: leave {wrong} out")
    if rule.window is None and config.frames is not None and config.frames > model.config.frames:
        raise InputError(
            f"{config.model}: its blocks read all of the past (causal.window none), so that a stream's memory would "
            f"grow without end: at most {model.config.frames} frames, or a model with a window"
        )
    for moment in config.prompts_at:
        if moment <= 0:
            raise InputError(
                f"--prompt-at {moment:g}s: expected a time after the beginning, which has the prompt itself"
            )


def told_at(config: GenerateConfig, request: Request) -> dict[int, list[Request]]:
    """The requests of later prompts, by the frames from which they hold."""
    assert config.fps is not None
    return {
        round(moment * config.fps): [replace(request, prompt=prompt)] for moment, prompt in config.prompts_at.items()
    }


class Streaming:
    """One video as it is made: its frames, how many there are, and whether to stop.

    Args:
        model: a causal one.
        config: a settled request, which has frames and a rate.
        request: which of its videos.
        events: told the frames that are made, and asked whether to stop.
        asked: the same of Ctrl-C.
    """

    def __init__(
        self, model: VideoModel, config: GenerateConfig, request: Request, events: Events, asked: Asked
    ) -> None:
        self.events, self.asked, self.made = events, asked, 0
        assert config.frames is not None
        self.total = config.frames
        stream = model.opened_stream(
            [request], sampler=config.sampler, guidance=config.guidance, methods=config.wrappers
        )
        self.frames = stream_frames(stream, config.frames, told_at(config, request))

    def __iter__(self) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8, one after the other."""
        for frame in self.frames:
            yield video.to_uint8(frame[0][:, None])[0]
            self.made += 1
            self.events.progress(self.made, self.total)
            if self.asked.stop_asked or self.events.stopping:
                return


def write_stream(
    path: Path,
    model: VideoModel,
    config: GenerateConfig,
    index: int,
    request: Request,
    inputs: Mapping[str, str],
    events: Events,
) -> bool:
    """Write one video and the `.json` beside it as its frames are made; returns whether it was asked to stop.

    Ctrl-C, or events that ask to stop, end the video after the frame at hand; it is whole then, and its record says how
    many frames it has.

    Raises:
        InputError: for what the model can't take.
    """
    from kinolab.generation.provenance import made_by, provenance, provenance_path

    asked, target, begun = Asked(), provenance_path(path), time.perf_counter()
    frames = Streaming(model, config, request, events, asked)

    def record(made: Path) -> str:
        settled = config.model_copy(update={"frames": frames.made})
        return provenance(made, made_by(settled, index, request), inputs)

    assert config.fps is not None
    with interruptible(asked):
        if path.suffix:
            with new_set(path.parent, path.name) as room:
                _write(room / path.name, path, frames, config.fps, events)
                write_text(room / target.name, record(room / path.name))
        else:
            video.check_folder(path)
            with new_folder(path) as room:
                _write(room, path, frames, config.fps, events)
                text = record(room)
                remove(target)  # of other frames from here on
            write_text(target, text)
    seconds = time.perf_counter() - begun
    if frames.made < frames.total:
        events.note(f"stopped after {frames.made} of {frames.total} frames; the video is whole as far as it goes")
    rate = frames.made / seconds
    events.note(
        f"{frames.made} frames in {seconds:.1f} s: {rate:.1f} frames per second, {rate / config.fps:.1f} times as fast "
        "as they are shown"
    )
    return asked.stop_asked or events.stopping


def _write(growing: Path, path: Path, frames: Streaming, fps: float, events: Events) -> None:
    """Write frames to where they grow, which a note says."""
    if path.suffix.lower() in GROWS:
        events.note(f"{path} grows as {growing} and can be watched there until it is whole")
    video.write(growing, iter(frames), fps=fps, growing=True)


def stream_videos(
    model: VideoModel,
    config: GenerateConfig,
    requests: Sequence[Request],
    targets: Sequence[Path],
    inputs: Mapping[str, str],
    events: Events,
) -> list[Path]:
    """Write the videos of a settled request one after the other, each as it is made; returns those that were.

    Raises:
        InputError: where it can't be streamed (`check_stream`).
    """
    check_stream(config, model)
    written = []
    for index, (request, path) in enumerate(zip(requests, targets, strict=True)):
        stopped = write_stream(path, model, config, index, request, inputs, events)
        events.wrote(path)
        written.append(path)
        if stopped:
            break
    return written
