"""From requests to pixels: one window of frames, or several that fill a canvas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kinolab.conditioning import asked_files
from kinolab.contracts.events import Events, Listener, Turn, events_of
from kinolab.errors import InputError
from kinolab.generation.low_resolution import low_resolution
from kinolab.generation.request import GenerateConfig, SamplingConfig, steering
from kinolab.generation.saliency import with_saliency
from kinolab.generation.source import begun_with
from kinolab.methods import Method, SteeringConfig
from kinolab.models import Request, VideoModel
from kinolab.models.cascade import Keeper
from kinolab.tasks.extend import Canvas
from kinolab.tasks.request import Prepared


def make_clips(
    model: VideoModel,
    config: GenerateConfig,
    requests: Sequence[Request],
    prepared: Prepared | None,
    events: Events,
    keeper: Keeper | None = None,
) -> Callable[[int], Tensor]:
    """Sample all clips of a request; returns a function from a clip's number to its pixels (3, T, H, W).

    keeper: keeps what the finished stages of a cascade made, where nothing is given.
    """
    held = _held_to(config, model, prepared)
    if prepared is None:
        how, frames, sampled = config.arguments, config.frames or model.config.frames, events
        own = with_saliency(how["methods"], config.saliency, frames, config.fps or model.config.fps)
        if config.source is not None:
            inverted = config.source.way == "invert"
            held = [*held, begun_with(config.source, model, requests, Turn(events, 0, 2) if inverted else None)]
            sampled = Turn(events, 1, 2) if inverted else events
        latents = model.sample_latents(requests, events=sampled, keeper=keeper, **how | {"methods": [*own, *held]})
        return lambda k: model.decode(latents[k : k + 1])[0]
    assert config.given is not None
    if config.saliency is not None:
        raise InputError("saliency: text2video_zero makes a clip of nothing given; leave saliency out")
    if len(prepared.windows) > 1 and asked_files(config.conditions):
        # A window would be told of the clip's beginning, wherever it stands.
        names = ", ".join(config.conditions)
        raise InputError(
            f"conditions: {names} are of one clip of {model.output.config.frames} frames; ask for no longer one"
        )
    made = fill_canvas(
        model,
        Canvas(*(t.expand(len(requests), -1, -1, -1, -1) for t in prepared.canvas.window(prepared.canvas.all))),
        prepared.windows,
        requests,
        steering=steering(config.given),
        exact=config.given.keep == "exact",
        sampling=config,
        methods=held,
        events=events,
    )
    return lambda k: made[k][:, prepared.shown]


def _held_to(config: GenerateConfig, model: VideoModel, prepared: Prepared | None) -> list[Method]:
    """What holds a settled request's videos to its low-resolution clip, if it has one."""
    if config.low_resolution is None:
        return []
    if prepared is not None and (len(prepared.windows) > 1 or prepared.shown.start):
        raise InputError(f"low_resolution: expected a video of at most the model's {model.config.frames} frames")
    frames = config.frames or model.config.frames
    if prepared is not None:
        frames = min(prepared.canvas.video.shape[2], prepared.shown.stop or frames)
    fps = (config.fps if prepared is None else prepared.fps) or model.config.fps
    assert config.size is not None
    return [low_resolution(config.low_resolution, model, frames, fps, config.size)]


def fill_canvas(
    model: VideoModel,
    canvas: Canvas,
    windows: Sequence[Sequence[int]],
    requests: Sequence[Request],
    *,
    steering: SteeringConfig | None = None,
    exact: bool = False,
    sampling: SamplingConfig | None = None,
    methods: Sequence[Method] = (),
    events: Listener = None,
) -> Tensor:
    """Generate what a canvas lacks, window by window: (B, 3, T, H, W) in [-1, 1].

    A window with nothing given yet is generated freely; noise of clip k and window n comes from its seed and n. With
    `exact` the given pixels come out as they were; else as the decoder makes them in the first window that shows them.
    `methods` wrap every window beside those of `sampling`.
    """
    told, how = events_of(events), (SamplingConfig() if sampling is None else sampling).arguments
    how["methods"] = [*how["methods"], *methods]
    shown, unseen = canvas.video.clone(), torch.ones_like(canvas.mask)
    for n, frames in enumerate(windows):
        video, mask = canvas.window(frames)
        if not canvas.missing(frames):
            made = video
        else:
            window = Turn(told, n, len(windows))
            asked = [replace(r, seed=window_seed(r.seed, n), frames=len(frames), size=None) for r in requests]
            if bool((mask == 1).all()):
                asked = [replace(r, size=(video.shape[3], video.shape[4])) for r in asked]
                latents = model.sample_latents(asked, events=window, **how)
                made = model.decode(latents)
            else:
                made = model.complete(video, mask, asked, steering=steering, events=window, **how)
        made = made.to(shown)
        first = unseen[:, :, list(frames)] == 1
        shown[:, :, list(frames)] = torch.where(first, made, shown[:, :, list(frames)])
        unseen[:, :, list(frames)] = 0
        canvas.put(frames, made)
    return canvas.video if exact else shown


def window_seed(seed: int, window: int) -> int:
    """The seed of a window's noise; the first window has the request's own."""
    return seed if window == 0 else (seed + 1_000_003 * window) % 2**63
