"""How fast a model can sample, and what that costs: time against drift from a full run, on the model's own requests.

Every candidate (steps, sampler, guidance, precision, compilation, step cache) makes the same clips from the same noise
as the full run. Samplers that draw new noise in every step are left out: two of their runs differ by chance. Times are
taken in turns, one run of every candidate after the other, since machines are noisy; how many times faster a candidate
is comes from the runs of one turn. A setting is on the frontier where no other one is both faster and closer.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor

from kinolab import __version__, video
from kinolab.config import Config
from kinolab.contracts.events import Events, Listener, advance, events_of
from kinolab.errors import InputError
from kinolab.evaluation.world import Asks, judge, what_to_ask
from kinolab.evaluation.world_report import Share
from kinolab.generation.matching import matching_world
from kinolab.generation.provenance import adapters_made_by, model_hash
from kinolab.generation.request import SamplingConfig, sampling_of
from kinolab.methods import GuidanceConfig, StepCache
from kinolab.metrics.reconstruction import MAX_PSNR, psnr
from kinolab.models import Request, VideoModel
from kinolab.planning.cost_report import clock
from kinolab.planning.settings import SAME, Lists, Setting, full_run, grid, quick
from kinolab.planning.tune_report import Outcome, TuneReport
from kinolab.runtime.precision import NonFiniteError
from kinolab.toyworld.clips import WorldClip, make_clip
from kinolab.toyworld.reader import read_world
from kinolab.toyworld.source import WorldSource, WorldSourceConfig
from kinolab.toyworld.words import CLASSES


class TuneConfig(Config):
    """What is made, how often, and which settings are tried."""

    prompts: tuple[str, ...] = ()
    """One clip for each; none = held-out captions of the toy world for a model of it, else labels, else nothing."""
    count: int = Field(4, ge=1)
    """Clips where no prompts are given."""
    first: int = Field(0, ge=0)
    """Number of the first held-out request of the toy world."""
    seed: int = Field(0, ge=0)
    """Seed of the first clip's noise; the others follow."""
    batch: int = Field(4, ge=1)
    """Clips generated at once."""
    repeats: int = Field(3, ge=1)
    """Turns that are timed."""
    all: bool = False
    """Try every combination of the lists instead of one change at a time."""
    lists: Lists = Lists()
    """What is tried."""

    @field_validator("prompts")
    @classmethod
    def _some_text(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        if any(not prompt.strip() for prompt in prompts):
            raise ValueError("expected prompts with text in them")
        return prompts


@dataclass(frozen=True)
class _Task:
    """The requests, and for the toy world the clips they are captions of."""

    requests: tuple[Request, ...]
    clips: tuple[WorldClip, ...]
    asks: Asks
    notes: tuple[str, ...]


@torch.no_grad()
def tune(
    model: VideoModel,
    config: TuneConfig | None = None,
    *,
    name: str,
    sampling: SamplingConfig | None = None,
    events: Listener = None,
) -> TuneReport:
    """Time and drift of every setting on the same requests.

    Args:
        model: as loaded; its own precision does not matter.
        name: the model's folder or shipped name, for the protocol and the options.
        sampling: what is varied, in place of the model's own way to sample; its reach, its methods and its later
            stages belong to every setting.
        events: counts runs; a stopped call keeps nothing.

    Raises:
        InputError: for prompts that the model can't take, or lists that leave nothing to try.
    """
    config, told = config if config is not None else TuneConfig(), events_of(events)
    task = _task(model, config)
    guided = any(r.prompt is not None or r.label is not None for r in task.requests)
    sampling = sampling_of(model.config, sampling)
    if sampling.cache is not None:
        raise InputError("the step cache is what is tried: leave it out, or name thresholds to try")
    usual = model.config if guided else model.config.model_copy(update={"guidance": GuidanceConfig()})
    own = usual.model_copy(update={"sampler": sampling.sampler})
    if guided:
        own = own.model_copy(update={"guidance": sampling.guidance})
    full, notes = full_run(own, config.lists)
    others = grid(own, config.lists, model.device) if config.all else quick(own, config.lists, model.device)
    same = {field: getattr(sampling, field) for field in SAME}
    full, *others = (setting.model_copy(update=same) for setting in (full, *others))
    settings = list(dict.fromkeys([full, *others]))
    if len(settings) < 2:
        raise InputError("nothing to try beside the full run: give more steps, samplers or thresholds")
    runs, rounds = _Runs(model, task, config.batch), 1 + config.repeats
    drifts, warming, dropped = _first_runs(runs, settings, rounds, told)
    kept = [s for s in settings if s in drifts]
    times = _race(runs, kept, config.repeats, told, len(settings))
    outcomes = [_outcome(s, times[s], times[full], warming[s], drifts[s]) for s in kept]
    protocol = _protocol(model, name, config, task, full)
    return TuneReport(protocol, _mark(outcomes), usual, (*task.notes, *notes, *dropped))


@dataclass(frozen=True)
class _Drift:
    """How far a setting's clips are from the full run's, and what they show."""

    psnr: float
    worst: float
    latents: float
    passed: Share | None
    hits: int
    misses: int
    psnrs: tuple[float, ...]


class _Runs:
    """Makes all clips with a setting; one model per precision and compilation, which share their weights."""

    def __init__(self, model: VideoModel, task: _Task, batch: int) -> None:
        self.model, self.task, self.batch = model, task, batch
        self.variants: dict[tuple[str, bool], VideoModel] = {}

    def variant(self, setting: Setting) -> VideoModel:
        """The model in the setting's precision, compiled where it says so."""
        key = (setting.precision, setting.compile)
        if key not in self.variants:
            variant = copy.copy(self.model)
            variant.stages = tuple(copy.copy(stage) for stage in self.model.stages)
            for stage in variant.cascade:
                stage.precision = setting.precision
                if setting.compile:
                    stage.denoiser = copy.deepcopy(stage.denoiser)
            if setting.compile:
                variant.compile()
            self.variants[key] = variant
        return self.variants[key]

    def make(self, setting: Setting) -> tuple[Tensor, Tensor, StepCache | None]:
        """Latents (N, C, T', H', W') and clips (N, 3, T, H, W), on the CPU, and the cache as it was used."""
        model, how = self.variant(setting), setting.arguments
        latents, clips = [], []
        for start in range(0, len(self.task.requests), self.batch):
            requests = self.task.requests[start : start + self.batch]
            z = model.sample_latents(requests, **how)
            latents.append(z.float().cpu())
            clips.append(model.decode(z).cpu())
        return torch.cat(latents), torch.cat(clips), how["cache"]

    def passed(self, clips: Tensor) -> Share | None:
        """How many clips of the toy world show all that they were asked for."""
        if not self.task.clips:
            return None
        count = 0
        for made, clip in zip(video.to_uint8(clips), self.task.clips, strict=True):
            checks = judge(clip.request, read_world(made), self.task.asks, CLASSES[clip.label])
            count += all(value for value in checks.values() if value is not None)
        return Share(count, len(self.task.clips))


def _first_runs(
    runs: _Runs, settings: Sequence[Setting], rounds: int, events: Events
) -> tuple[dict[Setting, _Drift], dict[Setting, float], list[str]]:
    """One run of each, the full one first: drifts, seconds until it was ready, and what was left out."""
    drifts, warming, dropped = dict[Setting, _Drift](), dict[Setting, float](), list[str]()
    for k, setting in enumerate(settings):
        began = time.perf_counter()
        try:
            latents, clips, cache = runs.make(setting)
        except NonFiniteError:
            if not k:
                raise
            dropped.append(f"{setting.title}: gave NaN or infinity, left out")
            continue
        warming[setting] = time.perf_counter() - began
        if not k:
            reference = latents, clips
            most = clock(warming[setting] * len(settings) * rounds)
            events.note(f"{len(settings)} settings in {rounds} turns, the first one not timed: at most about {most}")
        drifts[setting] = _drift(reference, (latents, clips), runs.passed(clips), cache)
        advance(events, k + 1, len(settings) * rounds)
    return drifts, warming, dropped


def _drift(
    full: tuple[Tensor, Tensor], made: tuple[Tensor, Tensor], passed: Share | None, cache: StepCache | None
) -> _Drift:
    """Latents and clips of a setting against those of the full run."""
    by_clip = psnr(full[1], made[1]).mean(1)
    hits, misses = (0, 0) if cache is None else (cache.hits, cache.misses)
    apart = float((made[0] - full[0]).abs().max())
    return _Drift(float(by_clip.mean()), float(by_clip.min()), apart, passed, hits, misses, tuple(by_clip.tolist()))


def _race(
    runs: _Runs, settings: Sequence[Setting], repeats: int, events: Events, done: int
) -> dict[Setting, list[float]]:
    """Seconds per clip of each setting, in turns; all have run once before."""
    for setting in settings:
        if setting.compile:  # once more: a setting with a cache can make one without it compile again
            runs.make(setting)
    times: dict[Setting, list[float]] = {s: [] for s in settings}
    for turn in range(repeats):
        for k, setting in enumerate(settings):
            began = time.perf_counter()
            runs.make(setting)
            times[setting].append((time.perf_counter() - began) / len(runs.task.requests))
            advance(events, done + turn * len(settings) + k + 1, done + repeats * len(settings))
    return times


def _outcome(
    setting: Setting, seconds: Sequence[float], full: Sequence[float], warming: float, drift: _Drift
) -> Outcome:
    faster = statistics.median(f / s for f, s in zip(full, seconds, strict=True))
    parts = {f.name: getattr(drift, f.name) for f in dataclasses.fields(drift)}
    return Outcome(setting=setting, seconds=tuple(seconds), faster=faster, warming=warming, **parts)


def _mark(outcomes: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """The same outcomes with those on the frontier marked: no other is at least as good in both, and better in one."""

    def beaten(o: Outcome) -> bool:
        return any(
            p.faster >= o.faster and p.psnr >= o.psnr and (p.faster, p.psnr) != (o.faster, o.psnr) for p in outcomes
        )

    return tuple(dataclasses.replace(o, frontier=not beaten(o)) for o in outcomes)


def _task(model: VideoModel, config: TuneConfig) -> _Task:
    """The person's prompts; else held-out requests of the toy world, labels, or nothing, as the model takes them."""
    frames, size = model.output.config.frames, model.output.config.size

    def request(k: int, prompt: str | None = None, label: int | None = None) -> Request:
        return Request(prompt, label, frames, size, config.seed + k)

    if config.prompts:
        return _Task(tuple(request(k, p) for k, p in enumerate(config.prompts)), (), "prompt", ())
    if model.config.class_names == CLASSES:
        asks, notes = what_to_ask(model)
        world, differs = matching_world(model)
        held = WorldSourceConfig(world=world, heldout_count=config.first + config.count, split="heldout")
        source = WorldSource(held, model.output.autoencoder.spec)
        clips = [make_clip(source.world, source.seed(config.first + k)) for k in range(config.count)]
        worded, labelled = asks in ("prompt", "prompt and label"), asks in ("label", "prompt and label")
        requests = [
            request(k, c.caption if worded else None, c.label if labelled else None) for k, c in enumerate(clips)
        ]
        return _Task(tuple(requests), tuple(clips), asks, (*notes, *differs))
    classes = model.denoiser.spec.num_classes
    if classes > 1:
        return _Task(tuple(request(k, label=k % classes) for k in range(config.count)), (), "label", ())
    note = ("no prompts were given: the clips are unconditional",) if model.text_encoder is not None else ()
    return _Task(tuple(request(k) for k in range(config.count)), (), "nothing", note)


def _protocol(model: VideoModel, name: str, config: TuneConfig, task: _Task, full: Setting) -> dict[str, Any]:
    return {
        "kinolab": __version__,
        "torch": torch.__version__,
        "model": name,
        "model_sha256": model_hash(name),
        **adapters_made_by(model),
        "trained": model.config.trained,
        "clips": len(task.requests),
        "asked_with": task.asks,
        "prompts": [r.prompt for r in task.requests],
        "labels": [r.label for r in task.requests],
        "seeds": [r.seed for r in task.requests],
        "frames": model.output.config.frames,
        "size": list(model.output.config.size),
        "batch": min(config.batch, len(task.requests)),
        "repeats": config.repeats,
        "full_run": full.dump(),
        "psnr": f"decoded clips in [-1, 1] against the full run's, mean over frames, at most {MAX_PSNR:g} dB",
        "passed": "all checks of the toy world's reader that the request asks for; Wilson, 95%",
        "threads": torch.get_num_threads(),
        "device": str(model.device),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan,
    }
