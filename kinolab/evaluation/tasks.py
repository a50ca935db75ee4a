"""Every task on held-out clips of the toy world: how well what is given is kept, and how well the rest is made."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from kinolab import video
from kinolab.contracts.engine import Engine
from kinolab.contracts.events import Events, Listener, Turn, advance, events_of
from kinolab.errors import InputError
from kinolab.evaluation.by_workers import ModelJob, batches, groups
from kinolab.evaluation.records import plain_table, subject_of
from kinolab.evaluation.scores import ScoreReport, Settings
from kinolab.evaluation.toy_protocols import ToyProtocol, protocol_of
from kinolab.evaluation.world import autoencode, made_by, told_given_alone, unguided
from kinolab.generation.matching import matching_world
from kinolab.generation.request import SamplingConfig
from kinolab.methods import SteeringConfig
from kinolab.metrics.physics import positions_of
from kinolab.metrics.summaries import scores_of
from kinolab.models import Request, VideoModel
from kinolab.tasks import box_mask, every_nth, keyframe_mask, past_mask, predict_mask
from kinolab.toyworld.clips import WorldClip, make_clip
from kinolab.toyworld.reader import read_world
from kinolab.toyworld.scenes import FRAME
from kinolab.toyworld.source import WorldSource, WorldSourceConfig

if TYPE_CHECKING:
    from rich.table import Table

Mask = Callable[[int, int], Tensor]
"""(frames, side) -> mask (T, H, W)."""


def moving_box(frames: int, side: int) -> Tensor:
    """A box of half the sides that goes from one corner to the other."""
    mask = torch.zeros(frames, side, side)
    for t in range(frames):
        at = round(t / max(frames - 1, 1) * side / 2)
        mask[t, at : at + side // 2, at : at + side // 2] = 1
    return mask


def _frames(given: Callable[[int], Sequence[int]]) -> Mask:
    return lambda frames, side: keyframe_mask(frames, side, side, given(frames))


TASKS: dict[str, Mask] = {
    "predict from 8 frames": lambda frames, side: predict_mask(frames, side, side, min(8, frames - 1)),
    "predict from 1 frame": lambda frames, side: predict_mask(frames, side, side, 1),
    "predict the past from 8": lambda frames, side: past_mask(frames, side, side, min(8, frames - 1)),
    "interpolate, 1 missing": _frames(lambda frames: every_nth(frames, 2)),
    "interpolate, 3 missing": _frames(lambda frames: every_nth(frames, 4)),
    "interpolate, 3 missing, from frame 2": _frames(lambda frames: range(2, frames, 4)),
    "interpolate, 7 missing": _frames(lambda frames: every_nth(frames, 8)),
    "one frame in a latent's middle": _frames(lambda frames: [min(frames // 2 + 2, frames - 2)]),
    "animate, last frame": _frames(lambda frames: [-1]),
    "animate, first and last": _frames(lambda frames: [0, -1]),
    "complete, resting box": lambda frames, side: box_mask(
        frames, side, side, [(side // 4, side // 4, 3 * side // 4, 3 * side // 4)]
    ),
    "complete, moving box": moving_box,
}
"""What is measured, by name."""


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [name for name in names if name not in TASKS]
    if unknown or not names:
        raise ValueError(f"tasks {', '.join(unknown) or 'none'}: expected some of {', '.join(TASKS)}")
    return names


class TasksProtocol(ToyProtocol):
    """Clips of which a part is given, task by task."""

    kind: Literal["tasks"] = "tasks"
    """What is measured."""
    count: int = Field(32, ge=1)
    """Held-out clips; the first ones are always the same."""
    tasks: Annotated[tuple[str, ...], AfterValidator(_known)] = tuple(TASKS)
    """The tasks, by name."""


@dataclass(frozen=True)
class TaskResult:
    """Means over the clips of a task: PSNR in dB of what was given and of what was generated, the same for clips that
    are only put through the autoencoder, and the mean distance of objects in generated frames (pixels of 64)."""

    task: str
    given_psnr: float
    given_ceiling: float
    made_psnr: float
    made_ceiling: float
    error: float
    found: float
    clips: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """The numbers of each clip, by the name of their score."""
    ceilings: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """The same of clips that are only put through the autoencoder."""


@dataclass(frozen=True)
class TasksReport:
    """The results, and all that must be equal for two of them to be comparable."""

    protocol: dict[str, Any]
    results: tuple[TaskResult, ...]
    notes: tuple[str, ...] = ()
    """The tasks that the model refused, and why."""

    def table(self) -> Table:
        """One row per task."""
        p = self.protocol
        table = plain_table(
            f"{p['count']} held-out clips of {p['frames']} frames; PSNR in dB, positions in pixels of 64"
        )
        table.add_column("task", no_wrap=True)
        for heading in ("given", "(autoencoder)", "generated", "(autoencoder)", "positions", "found"):
            table.add_column(heading, justify="right")
        for r in self.results:
            numbers = (r.given_psnr, r.given_ceiling, r.made_psnr, r.made_ceiling)
            table.add_row(r.task, *(f"{v:.1f}" for v in numbers), f"{r.error:.2f}", f"{100 * r.found:.0f}%")
        return table

    def scores(self) -> ScoreReport:
        """The scores over all tasks; beside them those of each task, and of clips that only the autoencoder saw."""
        p, protocol = self.protocol, Settings("tasks", self.protocol)
        every: dict[str, list[Any]] = {}
        groups = {}
        for result in self.results:
            groups[result.task] = scores_of(result.clips)
            groups[f"{result.task}, autoencoder"] = scores_of(result.ceilings)
            for name, values in result.clips.items():
                every.setdefault(name, []).append(values)
        # A clip is one sample: its numbers of all tasks stay together.
        alike = {name: [_flat(own) for own in zip(*lists, strict=True)] for name, lists in every.items()}
        subject = subject_of(p)
        tasks = [{k: getattr(r, k) for k in ("task", *_MEANS)} for r in self.results]
        return ScoreReport(
            subject, {"name": "toy world", "clips": p["count"]}, protocol, protocol.hash(), scores_of(alike), (), {},
            self.notes, groups, {"tasks": tasks},
        )  # fmt: skip

    def to_json(self) -> str:
        """Protocol, scores with their intervals, and the means of each task."""
        return self.scores().to_json()


_MEANS = ("given_psnr", "given_ceiling", "made_psnr", "made_ceiling", "error", "found")


def _flat(values: Sequence[Any]) -> list[float]:
    """Numbers, and those of lists among them, in one list."""
    return [float(v) for value in values for v in (value if isinstance(value, list) else [value])]


@torch.no_grad()
def evaluate_tasks(
    model: VideoModel,
    protocol: TasksProtocol | Mapping[str, Any] | None = None,
    *,
    batch: int = 16,
    sampling: SamplingConfig | Mapping[str, Any] | None = None,
    steering: SteeringConfig | None = None,
    name: str | None = None,
    engine: Engine | None = None,
    events: Listener = None,
) -> TasksReport:
    """Do every task on the same held-out clips, told nothing but the given part.

    Args:
        protocol: which clips and which tasks; as a mapping what differs from the defaults.
        sampling: the model's own where left out; of guidance that towards what is given.
        engine: whose workers do them; none = this process.

    Raises:
        InputError: for a protocol or a batch that can't be.
    """
    asked, told = protocol_of(TasksProtocol, protocol), events_of(events)
    if batch < 1:
        raise InputError(f"expected a batch of at least 1, got {batch}")
    count, first, seed, tasks = asked.count, asked.first, asked.seed, asked.tasks
    world, _ = matching_world(model)
    source = WorldSource(
        WorldSourceConfig(world=world, heldout_count=first + count, split="heldout"), model.output.autoencoder.spec
    )
    clips = [make_clip(source.world, source.seed(i)) for i in range(first, first + count)]
    original = torch.stack([video.to_tensor(clip.frames) for clip in clips])
    rebuilt = torch.cat([autoencode(model, part) for part in original.split(batch)])
    results, notes = list[TaskResult](), list[str]()
    sampling = told_given_alone(model, sampling, steering)
    for number, task in enumerate(tasks):
        mask = TASKS[task](source.frames, world.size).expand(count, 1, -1, -1, -1)
        made: list[Tensor] = []
        job = ModelJob(model, _do, Doing(task, source, seed, sampling, steering))
        try:
            for numbers, shown in batches(job, groups(count, batch, first), engine, Turn(told, number, len(tasks))):
                made.append(shown)
                advance(told, number * count + numbers.stop - first, len(tasks) * count)
        except InputError as error:
            notes.append(f"{task}: {error}")
            continue
        results.append(_result(task, clips, original, rebuilt, torch.cat(made), mask))
    record = made_by(model, name) | {
        "protocol": asked.name, "count": count, "first": first, "frames": source.frames, "size": world.size,
        "batch": batch, "seed": seed, **unguided(sampling),
        "steering": None if steering is None else steering.model_dump(mode="json"),
        **({} if tasks == tuple(TASKS) else {"tasks": list(tasks)}),
    }  # fmt: skip
    return TasksReport(record, tuple(results), tuple(notes))


@dataclass(frozen=True)
class Doing:
    """A task, the clips that it is done on, the first seed, and how it is sampled."""

    task: str
    source: WorldSource
    seed: int
    sampling: SamplingConfig
    steering: SteeringConfig | None


def _do(model: VideoModel, how: Doing, numbers: range, events: Events) -> Tensor:
    """Do a task on some clips, told nothing but the given part: (B, 3, T, H, W)."""
    source = how.source
    clips = torch.stack([video.to_tensor(make_clip(source.world, source.seed(i)).frames) for i in numbers])
    mask = TASKS[how.task](source.frames, source.world.size).expand(len(clips), 1, -1, -1, -1)
    requests = [Request(seed=how.seed + i) for i in numbers]
    return model.complete(clips, mask, requests, steering=how.steering, **how.sampling.arguments).cpu()


def _result(
    task: str, clips: Sequence[WorldClip], original: Tensor, rebuilt: Tensor, made: Tensor, mask: Tensor
) -> TaskResult:
    errors, found = list[list[float]](), list[list[float]]()
    open_frames = (mask[0, 0] == 1).flatten(1).any(1).numpy()
    for clip, shown in zip(clips, video.to_uint8(made), strict=True):
        reading = read_world(shown)
        errors.append([])
        found.append([])
        for o in clip.state:
            path = positions_of(reading.find(o.colour), len(shown))
            distance = np.linalg.norm(path - o.position, axis=-1)[open_frames] * FRAME / shown.shape[1]
            found[-1].append(float(np.isfinite(distance).all()))
            errors[-1] += distance[np.isfinite(distance)].tolist()
    given = mask == 0
    made_psnrs = {"given_psnr": _psnrs(made, original, given), "made_psnr": _psnrs(made, original, ~given)}
    ceilings = {"given_psnr": _psnrs(rebuilt, original, given), "made_psnr": _psnrs(rebuilt, original, ~given)}
    return TaskResult(
        task,
        float(made_psnrs["given_psnr"].mean()),
        float(ceilings["given_psnr"].mean()),
        float(made_psnrs["made_psnr"].mean()),
        float(ceilings["made_psnr"].mean()),
        _mean(errors),
        _mean(found),
        {k: x.tolist() for k, x in made_psnrs.items()} | {"position_error": errors, "found": found},
        {k: x.tolist() for k, x in ceilings.items()},
    )


def _mean(clips: Sequence[Sequence[float]]) -> float:
    """The mean of the numbers of all clips."""
    values = [v for clip in clips for v in clip]
    return statistics.fmean(values) if values else math.nan


def _psnrs(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
    """The PSNR in dB of each clip over the pixels `where` (B, 1, T, H, W), for values in [-1, 1]: (B,)."""
    squared = (a - b).square().mean(1, keepdim=True)
    error = (squared * where).flatten(1).sum(1) / where.flatten(1).sum(1)
    return 10 * torch.log10(4 / error.clamp(min=1e-10))
