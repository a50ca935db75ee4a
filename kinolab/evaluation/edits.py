"""How well a clip is edited, measured on the toy world, where the true motion and the true edit are known.

Held-out clips of one object are inverted or noised, told what they show, and sampled anew, told that the object has
another colour, another shape, or both. An edit is right when the reader finds that one object and nothing else; what an
edit shall keep is the motion: the distance of the object from where it is in the clip. Beside the model's ways stand
the edit as the world itself draws it (the reader's ceiling), that after the autoencoder, and the clip unedited.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kinolab import video
from kinolab.contracts.engine import Engine
from kinolab.contracts.events import Events, Listener, Turn, advance, events_of
from kinolab.errors import InputError
from kinolab.evaluation.by_workers import ModelJob, batches, groups
from kinolab.evaluation.records import plain_table
from kinolab.evaluation.scores import ClipScore, ScoreReport, Settings
from kinolab.evaluation.toy_protocols import EDITS, EditsProtocol, EditWay, protocol_of
from kinolab.evaluation.world import autoencode, made_by, what_to_ask
from kinolab.generation.matching import matching_world
from kinolab.generation.request import SamplingConfig, sampling_of
from kinolab.generation.source import inversion_of, source_request, turns_back
from kinolab.methods import InversionConfig
from kinolab.metrics.base import MetricValue
from kinolab.metrics.physics import positions_of
from kinolab.metrics.summaries import scores_of
from kinolab.models import Request, VideoModel
from kinolab.toyworld.clips import WorldClip, WorldConfig, edited_clip, make_clip
from kinolab.toyworld.reader import read_world
from kinolab.toyworld.scenes import FRAME
from kinolab.toyworld.source import WorldSource, WorldSourceConfig
from kinolab.toyworld.words import COLOURS, SHAPES, list_objects

if TYPE_CHECKING:
    from rich.table import Table

IDEAL = ("asked for", "asked for, autoencoder", "unedited")
"""What the ways are held against."""
Fit = Callable[[Tensor, str], VideoModel]
"""fit(a clip (3, T, H, W) in [-1, 1], its caption) -> a model that was fitted to it."""


@dataclass(frozen=True)
class Task:
    """One edit: the clip, the same motion by what is asked for, and what a model is told of the one and the other."""

    number: int
    edit: str
    seed: int
    source: WorldClip
    asked: WorldClip
    words: tuple[str, str]


@dataclass(frozen=True)
class Edited:
    """What came of one edit by one way.

    edited: the object that is asked for shows, and nothing else; edited_colour, edited_shape: one with its colour, and
    one with its shape, shows. identity: all that shows stays itself. position_error: pixels of 64 from where the object
    is in the clip, mean over the frames; one that does not show counts as standing where it began. found: whether any
    object shows.
    """

    way: str
    edit: str
    clip_seed: int
    shown: str
    asked: str
    edited: bool
    edited_colour: bool
    edited_shape: bool
    identity: bool
    position_error: float
    found: float

    def score(self) -> ClipScore:
        """The edit's own scores, and all that is known of it."""
        scores = {name: float(getattr(self, name)) for name in MEASURES}
        return ClipScore(f"{self.way}, {self.clip_seed}", scores, None, dataclasses.asdict(self))


MEASURES = ("edited", "edited_colour", "edited_shape", "identity", "position_error", "found")


@dataclass(frozen=True)
class EditsReport:
    """The results of an evaluation, and all that must be equal for two of them to be comparable.

    seconds: per clip, there and back, of each way.
    """

    protocol: dict[str, Any]
    results: tuple[Edited, ...]
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()

    @property
    def ways(self) -> list[str]:
        """The ways in order, and behind them what they are held against."""
        return list(dict.fromkeys(r.way for r in self.results))

    def rows(self, way: str, edit: str | None = None) -> list[Edited]:
        """The results of one way."""
        return [r for r in self.results if r.way == way and edit in (None, r.edit)]

    def mean(self, way: str, name: str, edit: str | None = None) -> float:
        """The mean of a measure over the clips."""
        values = [float(getattr(r, name)) for r in self.rows(way, edit)]
        return statistics.fmean(values) if values else math.nan

    def scores(self) -> ScoreReport:
        """The first way's scores; beside them those of every other, of what is ideal, and of each kind of edit."""
        p, protocol = self.protocol, Settings("edits", self.protocol)
        first, *others = self.ways
        groups = {way: _scores(self.rows(way)) for way in others}
        for edit in p["edits"]:
            groups |= {f"{way}, {edit}": _scores(self.rows(way, edit)) for way in self.ways if way not in IDEAL}
        subject = {"name": p["model"], "kind": "model", "sha256": p["model_sha256"]}
        return ScoreReport(
            subject, {"name": "toy world", "clips": p["count"]}, protocol, protocol.hash(), _scores(self.rows(first)),
            tuple(r.score() for r in self.results), {"seconds_per_clip": dict(self.seconds)}, self.notes, groups,
        )  # fmt: skip

    def to_json(self) -> str:
        """Protocol, scores with their intervals, and every edit's own result."""
        return self.scores().to_json()

    def table(self) -> Table:
        """One row per way, and below what they are held against."""
        p = self.protocol
        table = plain_table(f"{p['count']} clips of one object: % of edits (95% interval), positions in px of 64")
        for heading in ("way", "edited", "colour", "shape", "identity", "position error", "found", "s per clip"):
            table.add_column(heading, justify="left" if heading == "way" else "right")
        for way in self.ways:
            found = _scores(self.rows(way))
            shares = [_share(found[name]) for name in MEASURES[:4]]
            error, seconds = found["position_error"], self.seconds.get(way)
            span = "" if error.interval is None else f" ({error.interval.low:.1f}-{error.interval.high:.1f})"
            table.add_row(
                way, *shares, f"{error.value:.2f}{span}", f"{100 * self.mean(way, 'found'):.0f}",
                "-" if seconds is None else f"{seconds:.2f}",
            )  # fmt: skip
        return table

    def edits_table(self) -> Table:
        """The share of right edits and the distance from the clip's motion, by what was changed."""
        edits = self.protocol["edits"]
        table = plain_table("edited, in % / position error in px, by what is changed")
        for heading in ("way", *edits):
            table.add_column(heading, justify="left" if heading == "way" else "right")
        for way in self.ways:
            pairs = [(100 * self.mean(way, "edited", e), self.mean(way, "position_error", e)) for e in edits]
            table.add_row(way, *(f"{share:.0f} / {error:.2f}" for share, error in pairs))
        return table


def _scores(rows: Sequence[Edited]) -> dict[str, MetricValue]:
    return scores_of({name: [getattr(r, name) for r in rows] for name in MEASURES})


def _share(score: MetricValue) -> str:
    low, high = (0.0, 1.0) if score.interval is None else (score.interval.low, score.interval.high)
    return f"{100 * score.value:.0f} ({100 * low:.0f}-{100 * high:.0f})"


@torch.no_grad()
def evaluate_edits(
    model: VideoModel,
    protocol: EditsProtocol | Mapping[str, Any] | None = None,
    *,
    batch: int = 16,
    sampling: SamplingConfig | Mapping[str, Any] | None = None,
    fit: Fit | None = None,
    name: str | None = None,
    engine: Engine | None = None,
    events: Listener = None,
) -> EditsReport:
    """Edit held-out clips in every way, and read what came of it.

    Args:
        protocol: which clips, edits and ways; as a mapping what differs from the defaults. Clip k and its edit are the
            same whatever the count, and its noise, where there is some, comes from seed + k.
        batch: clips edited at once.
        sampling: the model's own where left out, by ddim where that can't be turned back.
        fit: makes the model of each clip, for ways that say `fitted`.
        engine: whose workers edit; none = this process. Fitted ways are this process's.

    Raises:
        InputError: for a protocol or a batch that can't be, a model that takes no prompts, and a fitted way without
            `fit`.
    """
    asked, told = protocol_of(EditsProtocol, protocol), events_of(events)
    if batch < 1:
        raise InputError(f"expected a batch of at least 1, got {batch}")
    if "prompt" not in what_to_ask(model)[0]:
        raise InputError("edits are asked for in words, and this model takes no prompts")
    if fit is None and any(way.fitted for way in asked.ways.values()):
        raise InputError("ways: one is by a fitted model, and nothing fits any here; leave fitted out")
    world, notes = edit_world(model, asked)
    source = WorldSource(
        WorldSourceConfig(world=world, heldout_count=asked.first + asked.count, split="heldout"), model.autoencoder.spec
    )
    how, said = _sampling(model, sampling)
    images, numbers = model.config.frames == 1, range(asked.first, asked.first + asked.count)
    tasks = [task_of(source, k, asked.edits, looks_alone=images) for k in numbers]
    results, seconds = list[Edited](), dict[str, float]()
    for turn, (label, way) in enumerate(asked.ways.items()):
        part, began, size = Turn(told, turn, len(asked.ways)), time.perf_counter(), 1 if way.fitted else batch
        job = ModelJob(model, _edit, (tasks, way, how, asked.seed, fit if way.fitted else None))
        for numbers, made in batches(job, groups(len(tasks), size), None if way.fitted else engine, part):
            several = tasks[numbers.start : numbers.stop]
            results += [judged(label, task, frames) for task, frames in zip(several, made, strict=True)]
            advance(part, numbers.stop, len(tasks))
        seconds[label] = (time.perf_counter() - began) / len(tasks)
    results += _ideal(model, tasks, batch)
    record = made_by(model, name) | {
        "protocol": asked.name, "count": asked.count, "first": asked.first, "edits": list(asked.edits),
        "frames": source.frames, "size": world.size, "fps": world.fps, "batch": batch, "seed": asked.seed,
        "method": {label: way.model_dump(mode="json") for label, way in asked.ways.items()},
        **how.record(), "device": str(model.device), "interval": "Wilson and bootstrap, 95%",
    }  # fmt: skip
    return EditsReport(record, tuple(results), seconds, (*notes, *source.notes(), *said))


def _edit(model: VideoModel, context: Any, numbers: range, events: Events) -> np.ndarray:
    """A batch of edits in one way: (B, T, H, W, 3) uint8; by a model that is fitted to its clip, where something is to
    fit one."""
    tasks, way, how, seed, fit = context
    if fit is not None:
        one = tasks[numbers.start]
        model = fit(_clips([one.source])[0], one.words[0])
    return video.to_uint8(edit_clips(model, tasks[numbers.start : numbers.stop], way, how, seed, events=events))


def _ideal(model: VideoModel, tasks: Sequence[Task], batch: int) -> list[Edited]:
    """What the ways are held against, of the same edits."""
    whole = _clips([task.asked for task in tasks])
    rebuilt = torch.cat([autoencode(model, several) for several in whole.split(batch)])
    shown: list[Sequence[np.ndarray]] = [
        [task.asked.frames for task in tasks], list(video.to_uint8(rebuilt)), [task.source.frames for task in tasks]
    ]  # fmt: skip
    return [
        judged(label, task, frames)
        for label, videos in zip(IDEAL, shown, strict=True)
        for task, frames in zip(tasks, videos, strict=True)
    ]


def edit_world(model: VideoModel, asked: EditsProtocol) -> tuple[WorldConfig, list[str]]:
    """The toy world with one object in each clip, at the size and rate of a model, and what had to differ.

    An image model gets the protocol's frames and rate, and captions that name the object alone.
    """
    world, notes = matching_world(model)
    changes: dict[str, Any] = {"max_objects": 1}
    if model.config.frames == 1:
        changes |= {"frames": asked.frames, "fps": asked.fps}
        notes = [f"an image model: clips of {asked.frames} frames, and prompts that name the object alone"]
    return world.model_copy(update=changes), notes


def task_of(source: WorldSource, number: int, edits: Sequence[str] = EDITS, *, looks_alone: bool = False) -> Task:
    """The edit of held-out clip `number`: what is changed goes round with the number, the new colour by its seed.

    looks_alone: tell of the object alone and not of what happens, as an image model knows it.
    """
    seed, edit = source.seed(number), edits[number % len(edits)]
    clip = make_clip(source.world, seed)
    [(colour, shape)] = clip.request.objects
    if edit in ("colour", "both"):
        others = [name for name in COLOURS if name != colour]
        colour = others[int(np.random.default_rng(seed).integers(len(others)))]
    if edit in ("shape", "both"):
        shape = next(name for name in SHAPES if name != shape)
    asked = edited_clip(source.world, seed, ((colour, shape),))
    shown, to = (list_objects(c.request.objects, grouped=False) if looks_alone else c.caption for c in (clip, asked))
    return Task(number, edit, seed, clip, asked, (shown, to))


@torch.no_grad()
def edit_clips(
    model: VideoModel,
    tasks: Sequence[Task],
    way: EditWay,
    sampling: SamplingConfig,
    seed: int = 0,
    *,
    events: Listener = None,
) -> Tensor:
    """The clips (B, 3, T, H, W) in [-1, 1] that a model makes of others in one way."""
    told, clips = events_of(events), _clips([task.source for task in tasks])
    frames, size = clips.shape[2], (clips.shape[3], clips.shape[4])
    requests = [Request(t.words[1], None, frames, size, seed + t.number, fps=t.source.fps) for t in tasks]
    shown = [source_request(r, t.words[0] if way.told else None) for r, t in zip(requests, tasks, strict=True)]
    config = InversionConfig(way=way.way, strength=way.strength, refine=way.refine)
    inverted = way.way == "invert"
    method = inversion_of(config, model, clips, shown, Turn(told, 0, 2) if inverted else None)
    how = sampling if way.reach is None else sampling.model_copy(update={"reach": way.reach})
    arguments = how.arguments
    latents = model.sample_latents(
        requests, events=Turn(told, 1, 2) if inverted else told,
        **arguments | {"methods": [*arguments["methods"], method]},
    )  # fmt: skip
    return model.decode(latents).cpu()


def judged(way: str, task: Task, frames: np.ndarray) -> Edited:
    """What the frames (T, H, W, 3) uint8 show of an edit."""
    [(colour, shape)], [true] = task.asked.request.objects, task.source.state
    reading, scale = read_world(frames), FRAME / frames.shape[1]
    objects = reading.objects
    # The object that is asked for; where it is not there, the largest, which may be the clip's own.
    found = reading.find(colour) or max(objects, key=lambda o: o.extent, default=None)
    path = positions_of(found, len(frames)) * scale
    position = true.position * (FRAME / task.source.frames.shape[1])
    path = np.where(np.isfinite(path), path, position[:1])
    return Edited(
        way, task.edit, task.seed, *task.words,
        edited=[(o.colour, o.shape) for o in objects] == [(colour, shape)],
        edited_colour=any(o.colour == colour for o in objects),
        edited_shape=any(o.shape == shape for o in objects),
        identity=reading.steady,
        position_error=float(np.linalg.norm(path - position, axis=-1).mean()),
        found=float(found is not None),
    )  # fmt: skip


def summary_lines(report: EditsReport) -> list[str]:
    """What the tables don't say."""
    p = report.protocol
    return [
        f"{p['frames']} frames of {p['size']}x{p['size']}; {p['sampler']['name']}, {p['sampler']['steps']} steps, "
        f"guidance {p['guidance']['scale']:g}; {p['precision']}, {p['threads']} threads",
        "edited: the asked object and nothing else; colour, shape: something of that colour, of that shape; position "
        "error: distance from where the object is in the clip, mean over frames",
        *(f"note: {note}" for note in report.notes),
    ]


def _clips(clips: Sequence[WorldClip]) -> Tensor:
    return torch.stack([video.to_tensor(clip.frames) for clip in clips])


def _sampling(model: VideoModel, asked: SamplingConfig | Mapping[str, Any] | None) -> tuple[SamplingConfig, list[str]]:
    """How the model is sampled, and what had to differ."""
    how = sampling_of(model.config, asked)
    assert how.sampler is not None
    if turns_back(how.sampler):
        return how, []
    ddim = {"name": "ddim", "steps": how.sampler.steps, "spacing": how.sampler.spacing}
    note = f"sampled by ddim: the steps of {how.sampler.name} are not turned back"
    return sampling_of(model.config, how.model_dump() | {"sampler": ddim}), [note]
