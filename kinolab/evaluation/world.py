"""How well a model does what it is asked, measured on held-out requests of the toy world, from pixels alone.

The requests are the captions of held-out clips, always the same ones. The reader of `kinolab.toyworld.reader` judges
three videos of each: the one the model generates, the true clip (the reader's own ceiling), and the true clip put
through the autoencoder (what the autoencoder costs, whatever the denoiser does).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from kinolab import __version__, video
from kinolab.contracts.engine import Engine
from kinolab.contracts.events import Events, Listener, advance, events_of
from kinolab.errors import InputError
from kinolab.evaluation.by_workers import ModelJob, batches, groups
from kinolab.evaluation.toy_protocols import WorldProtocol, protocol_of
from kinolab.evaluation.world_report import CHECKS, SUBJECTS, ClipResult, WorldReport
from kinolab.generation.matching import matching_world
from kinolab.generation.provenance import adapters_made_by, model_hash
from kinolab.generation.request import SamplingConfig, sampling_of
from kinolab.methods import GuidanceConfig, SteeringConfig
from kinolab.metrics.reconstruction import Psnr, Ssim
from kinolab.models import Request, VideoModel
from kinolab.runtime.precision import autocast, resolve
from kinolab.toyworld.clips import WorldClip, make_clip
from kinolab.toyworld.motion import direction_holds, motion_holds
from kinolab.toyworld.reader import WorldReading, check, read_world, roughness
from kinolab.toyworld.source import WorldSource, WorldSourceConfig
from kinolab.toyworld.words import CLASSES, SCENARIO_DIRECTIONS, WorldRequest

if TYPE_CHECKING:
    from kinolab.evaluation.shown import Shown

Asks = Literal["prompt", "prompt and label", "label", "nothing"]


@torch.no_grad()
def evaluate_world(
    model: VideoModel,
    protocol: WorldProtocol | Mapping[str, Any] | None = None,
    *,
    batch: int = 16,
    sampling: SamplingConfig | Mapping[str, Any] | None = None,
    name: str | None = None,
    shown: Shown | None = None,
    engine: Engine | None = None,
    events: Listener = None,
) -> WorldReport:
    """Generate a clip for each of `count` held-out requests, and read all of them.

    Args:
        protocol: how many requests, from which on, and how they are put; as a mapping what differs from the defaults.
            Request k is the same whatever the count, and its noise comes from seed + k.
        batch: clips generated at once.
        sampling: the model's own where left out.
        name: the folder or shipped name of the model, to record it and the hash of its weights.
        shown: a method that is shown the held-out clip beside the prompt, and may be asked for another of the same
            motion, which is the true one then.
        engine: whose workers generate; none = this process.
        events: counts clips; a stopped call keeps nothing.

    Raises:
        InputError: for a protocol or a batch that can't be, a request that the model refuses, and an engine where clips
            are shown.
    """
    asked, told = protocol_of(WorldProtocol, protocol), events_of(events)
    if batch < 1:
        raise InputError(f"expected a batch of at least 1, got {batch}")
    first, count, seed = asked.first, asked.count, asked.seed
    world, notes = matching_world(model)
    source = WorldSource(
        WorldSourceConfig(world=world, heldout_count=first + count, split="heldout"), model.output.autoencoder.spec
    )
    asks, said = what_to_ask(model, asked.label)
    sampling = sampling_of(model.config, sampling)
    if asks == "nothing" and sampling.guidance is not None and sampling.guidance.active:
        sampling = sampling.model_copy(update={"guidance": GuidanceConfig()})
        said = [*said, "guidance is off: there is nothing to guide towards"]
    results: list[ClipResult] = []
    psnr, ssim, seconds = Psnr(), Ssim(), 0.0
    if shown is not None and engine is not None:
        raise InputError("a method that is shown clips notes what came of them in this process: leave the engine out")
    asking = Asking(source, asks, seed, sampling, shown)
    job = ModelJob(model, _ask, asking)
    for numbers, made in batches(job, groups(count, batch, first), engine, told):
        clips = asking.clips(numbers)[1]
        seconds += made.seconds
        original = torch.stack([video.to_tensor(clip.frames) for clip in clips])
        psnr.update(original, made.rebuilt)
        ssim.update(original, made.rebuilt)
        for i, clip, frames, decoded in zip(numbers, clips, made.frames, video.to_uint8(made.rebuilt), strict=True):
            for subject, video_of in zip(SUBJECTS, (frames, decoded, clip.frames), strict=True):
                results.append(_judge(subject, video_of, clip, source.seed(i), seed + i, asks))
        advance(told, numbers.stop - first, count)
    record = _record(model, name, source, asked, asks, sampling, batch)
    notes = [*notes, *source.notes(), *said]
    return WorldReport(record, tuple(results), psnr.compute(), ssim.compute(), seconds / count, tuple(notes))


@dataclass(frozen=True)
class Asked:
    """What a model made of some requests (B, T, H, W, 3) uint8, the seconds that took, and their true clips put through
    its autoencoder (B, 3, T, H, W)."""

    frames: np.ndarray
    seconds: float
    rebuilt: torch.Tensor


@dataclass(frozen=True)
class Asking:
    """How a model is asked: the held-out clips, in which way, with which first seed, and how it samples."""

    source: WorldSource
    asks: Asks
    seed: int
    sampling: SamplingConfig
    shown: Shown | None = None

    def clips(self, numbers: range) -> tuple[list[WorldClip], list[WorldClip]]:
        """The held-out clips of these numbers, and those that are asked for."""
        world, seeds = self.source.world, [self.source.seed(i) for i in numbers]
        held = [make_clip(world, seed) for seed in seeds]
        if self.shown is None:
            return held, held
        return held, [self.shown.asked(world, seed, clip) for seed, clip in zip(seeds, held, strict=True)]


def _ask(model: VideoModel, how: Asking, numbers: range, events: Events) -> Asked:
    """Make the clips of some requests."""
    held, clips = how.clips(numbers)
    frames, seed = how.source.frames, how.seed
    requests = [_request(model, how.asks, c, seed + i, frames) for i, c in zip(numbers, clips, strict=True)]
    began = time.perf_counter()
    if how.shown is None:
        latents = model.sample_latents(requests, events=events, **how.sampling.arguments)
        made = video.to_uint8(model.decode(latents))  # which makes the last clip of the batch whole
    else:
        made = video.to_uint8(how.shown.make(model, held, clips, requests, how.sampling, events))
    seconds = time.perf_counter() - began
    return Asked(made, seconds, autoencode(model, torch.stack([video.to_tensor(clip.frames) for clip in clips])))


def what_to_ask(model: VideoModel, label: bool = True) -> tuple[Asks, list[str]]:
    """How the model is asked, and what to know about it."""
    spec = model.denoiser.spec
    labels_fit = spec.num_classes > 0 and model.config.class_names == CLASSES
    if model.text_encoder is not None and (spec.text_dim or spec.pooled_dim):
        return ("prompt and label", []) if labels_fit and label else ("prompt", [])
    if labels_fit:
        note = "the model takes labels only: nothing is promised of colours, shapes, count and direction"
        return "label", [note]
    kind = "has other classes than the toy world's" if spec.num_classes else "is unconditional"
    return "nothing", [f"the model {kind}: only whether objects keep their identity is judged"]


def judge(request: WorldRequest, reading: WorldReading, asks: Asks, scenario: str) -> dict[str, bool | None]:
    """Every check's result; None for what the request does not ask.

    A label asks for its scenario in any direction and by any objects.
    """
    if asks in ("prompt", "prompt and label"):
        result = check(request, reading)
        asked = dict.fromkeys(CHECKS, True)
        asked |= {"direction": request.direction is not None, "motion": request.scenario is not None}
        return {name: getattr(result, name) if asked[name] else None for name in CHECKS}
    checks: dict[str, bool | None] = dict.fromkeys(CHECKS, None)
    checks["identity"] = reading.steady
    if asks == "label" and request.scenario is not None:
        paths = [o.path for o in reading.objects]
        extents = [o.extent / o.side for o in reading.objects]
        ways = [WorldRequest((), scenario, way) for way in SCENARIO_DIRECTIONS[scenario]]
        checks["motion"] = bool(paths) and any(
            direction_holds(way, paths) and motion_holds(way, paths, extents) for way in ways
        )
    return checks


def autoencode(model: VideoModel, original: torch.Tensor) -> torch.Tensor:
    """Clips (B, 3, T, H, W) in [-1, 1] through the posterior's mean and back, clamped to [-1, 1]."""
    stage = model.output
    with autocast(stage.precision, model.device):
        latents = stage.autoencoder.encode(original.to(model.device)).mean
    return model.decode(latents).cpu()


def _judge(
    subject: str, frames: np.ndarray, clip: WorldClip, clip_seed: int, noise_seed: int, asks: Asks
) -> ClipResult:
    reading, scenario = read_world(frames), CLASSES[clip.label]
    checks = judge(clip.request, reading, asks, scenario)
    return ClipResult(subject, scenario, clip.caption, clip_seed, noise_seed, checks, roughness(reading))


def _request(model: VideoModel, asks: Asks, clip: WorldClip, seed: int, frames: int) -> Request:
    prompt = clip.caption if asks in ("prompt", "prompt and label") else None
    label = clip.label if asks in ("label", "prompt and label") else None
    return Request(prompt, label, frames, model.output.config.size, seed)


def _record(
    model: VideoModel,
    name: str | None,
    source: WorldSource,
    protocol: WorldProtocol,
    asks: Asks,
    sampling: SamplingConfig,
    batch: int,
) -> dict[str, Any]:
    first, last = protocol.first, len(source) - 1
    return made_by(model, name) | {
        "protocol": protocol.name,
        "count": protocol.count,
        "first": first,
        "clip_seeds": [source.seed(first), source.seed(last)],
        "noise_seeds": [protocol.seed + first, protocol.seed + last],
        "asked_with": asks,
        "frames": source.frames,
        "size": list(model.output.config.size),
        "true_size": list(source.size),
        "fps": source.world.fps,
        "batch": batch,
        **sampling.record(),
        "device": str(model.device),
        "interval": "Wilson, 95%",
        "reconstruction": "posterior mean of the true clips; PSNR and SSIM are means over their frames",
    }


def made_by(model: VideoModel, name: str | None) -> dict[str, Any]:
    """What a record of any of these evaluations says of the model and the machine."""
    return {
        "kinolab": __version__,
        "torch": torch.__version__,
        "model": name,
        "model_sha256": None if name is None else model_hash(name),
        **adapters_made_by(model),
        "trained": model.config.trained,
        **({} if model.config.distilled is None else {"distilled": str(model.config.distilled)}),
        "precision": str(resolve(model.precision, model.device)).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def told_given_alone(
    model: VideoModel, sampling: SamplingConfig | Mapping[str, Any] | None, steering: SteeringConfig | None
) -> SamplingConfig:
    """How a run is sampled that is told nothing but what is given: guided towards that by the scale that is asked for
    (`guidance.scales`), or the model's own; one of prompts does not count, nor any where it is steered.
    """
    settled = sampling_of(model.config, sampling)
    asked = settled.guidance or GuidanceConfig()
    if not model.takes_given(steering):
        asked = GuidanceConfig()
    elif asked == sampling_of(model.config).guidance:
        asked = model.settled((), None, None, given=True)[1]
    elif (tuple(name for name, _ in asked.scales) or asked.of) != ("given",):
        asked = GuidanceConfig()
    return settled.model_copy(update={"guidance": asked})


def unguided(sampling: SamplingConfig) -> dict[str, Any]:
    """How a run that is told nothing is recorded: without a guidance, but for one towards what is given."""
    guided = sampling.guidance is not None and sampling.guidance.active
    return {name: value for name, value in sampling.record().items() if guided or name != "guidance"}
