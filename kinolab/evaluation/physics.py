"""How well a model predicts what happens, measured on the toy world, where the simulator knows (VDT, section 4.3).

From each held-out clip some first frames are given and the rest is predicted. Positions are read from the pixels of the
prediction and compared with the simulator's; beside the model stand the true clip put through the autoencoder (what its
decoder and the reader cost), and two baselines that know the simulator's positions in the given frames exactly: objects
that stay where they are (copy-last), and that go on as in the last two given frames (constant velocity).
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kinolab import video
from kinolab.contracts.engine import Engine
from kinolab.contracts.events import Events, Listener, advance, events_of
from kinolab.errors import InputError
from kinolab.evaluation.by_workers import ModelJob, batches, groups
from kinolab.evaluation.records import plain_table, subject_of
from kinolab.evaluation.scores import ClipScore, ScoreReport, Settings
from kinolab.evaluation.toy_protocols import PhysicsProtocol, protocol_of
from kinolab.evaluation.world import autoencode, made_by, told_given_alone, unguided
from kinolab.generation.matching import matching_world
from kinolab.generation.request import SamplingConfig
from kinolab.methods import SteeringConfig
from kinolab.metrics.base import MetricValue
from kinolab.metrics.physics import (
    EVENT,
    REACH,
    AtPlace,
    TrueObject,
    at_places,
    constant_velocity,
    contact,
    copy_last,
    energy_drift,
    find_objects,
    momentum_drift,
    positions_of,
)
from kinolab.metrics.summaries import scores_of
from kinolab.models import Request, VideoModel
from kinolab.tasks import predict_mask
from kinolab.toyworld.clips import GROUND, WorldClip, WorldConfig, make_clip
from kinolab.toyworld.reader import read_world
from kinolab.toyworld.scenes import FLOOR, FRAME, GRAVITY
from kinolab.toyworld.source import WorldSource, WorldSourceConfig
from kinolab.toyworld.words import CLASSES

if TYPE_CHECKING:
    from rich.table import Table

SUBJECTS = ("model", "reconstructed", "copy last", "constant velocity")
AHEAD = 8
"""Frames ahead that the mean error is taken over."""
CONTACTS = ("bounce", "collide")


@dataclass(frozen=True)
class Motion:
    """What one subject says of one clip. `errors`: pixels per predicted frame, a mean over objects; one that does not
    show counts as staying where it was last given.

    `found`: share of the objects that show in their colour; `identity`: each shows in its shape, and stays itself.
    `hits`: share of the true contacts at which the prediction changes its velocity too, by `EVENT` at least; `timing`:
    frames between the two, NaN without both.

    Over the first `AHEAD` frames, places and colours apart, none of which counts what is not there: `colour_error`:
    pixels of the objects that show in their colour; `at_place`: share of the objects that have any coloured spot within
    `REACH` of where they are; `place_error`: how far it is; `own_colour`, `own_shape`: shares of these spots.
    """

    subject: str
    scenario: str
    given: int
    clip_seed: int
    errors: tuple[float, ...]
    found: float
    identity: bool | None
    momentum: float
    energy: float
    timing: float
    hits: float
    colour_error: float = math.nan
    at_place: float = math.nan
    place_error: float = math.nan
    own_colour: float = math.nan
    own_shape: float = math.nan

    def score(self) -> ClipScore:
        """The clip's own scores, and all that is known of it."""
        known = [e for e in self.errors[:AHEAD] if math.isfinite(e)]
        scores = {"position_error": statistics.fmean(known) if known else math.nan}
        scores |= {name: float(v) for name in _MEASURES if (v := getattr(self, name)) is not None}
        name = f"{self.subject} {self.clip_seed}, {self.given} given"
        return ClipScore(name, scores, None, dataclasses.asdict(self))


@dataclass(frozen=True)
class PhysicsReport:
    """The results of an evaluation, and all that must be equal for two of them to be comparable."""

    protocol: dict[str, Any]
    results: tuple[Motion, ...]
    notes: tuple[str, ...] = field(default=())

    def rows(self, subject: str, given: int, scenarios: Sequence[str] = CLASSES) -> list[Motion]:
        """The results of one subject."""
        return [r for r in self.results if r.subject == subject and r.given == given and r.scenario in scenarios]

    def error(self, subject: str, given: int, ahead: int | None = None, scenarios: Sequence[str] = CLASSES) -> float:
        """Mean error in pixels at `ahead` frames after the last given one, or over the first `AHEAD` ones."""
        values = []
        for row in self.rows(subject, given, scenarios):
            chosen = row.errors[:AHEAD] if ahead is None else row.errors[ahead - 1 : ahead]
            values += [e for e in chosen if math.isfinite(e)]
        return statistics.fmean(values) if values else math.nan

    def mean(self, subject: str, given: int, name: str, scenarios: Sequence[str] = CLASSES) -> float:
        """Mean of another measure over the clips that have it; the median of drifts, which have long tails."""
        values = [float(v) for r in self.rows(subject, given, scenarios) if (v := getattr(r, name)) is not None]
        values = [v for v in values if math.isfinite(v)]
        if not values:
            return math.nan
        return statistics.median(values) if name in ("momentum", "energy") else statistics.fmean(values)

    @property
    def scenarios(self) -> list[str]:
        """The scenarios that occur."""
        return [name for name in CLASSES if any(r.scenario == name for r in self.results)]

    def scores(self) -> ScoreReport:
        """The model's scores from the most given frames; beside them every number of given frames and every subject."""
        p, protocol = self.protocol, Settings("physics", self.protocol)
        most = max(p["given"])
        groups = {f"{subject}, {given} given": self._scores(subject, given) for given in p["given"]
                  for subject in SUBJECTS if (subject, given) != ("model", most)}  # fmt: skip
        means = {str(given): {subject: self._summary(subject, given) for subject in SUBJECTS} for given in p["given"]}
        subject = subject_of(p)
        return ScoreReport(
            subject, {"name": "toy world", "clips": p["count"]}, protocol, protocol.hash(), self._scores("model", most),
            tuple(r.score() for r in self.results), {}, self.notes, groups, {"means": means},
        )  # fmt: skip

    def _scores(self, subject: str, given: int) -> dict[str, MetricValue]:
        rows, contacts = self.rows(subject, given), self.rows(subject, given, CONTACTS)
        values: dict[str, Any] = {name: [getattr(r, name) for r in rows] for name in _MEASURES}
        values |= {"position_error": [r.errors[:AHEAD] for r in rows]}
        return scores_of(values | {"contact_error": [r.errors[:AHEAD] for r in contacts]})

    def to_json(self) -> str:
        """Protocol, scores with their intervals, means, and every clip's own result."""
        return self.scores().to_json()

    def _summary(self, subject: str, given: int) -> dict[str, Any]:
        longest = max(len(r.errors) for r in self.rows(subject, given))
        summary: dict[str, Any] = {"error_first_8": self.error(subject, given)}
        summary["error_first_8_contacts"] = self.error(subject, given, scenarios=CONTACTS)
        summary["error_by_frame"] = [self.error(subject, given, k + 1) for k in range(longest)]
        matched = {n: self.mean(subject, given, n) for n in _MATCHED}  # which a baseline has not: it has no pixels
        found = {name: value for name, value in matched.items() if math.isfinite(value)}
        return summary | {n: self.mean(subject, given, n) for n in _OLDER} | found

    def table(self) -> Table:
        """One block per number of given frames: the model, what the autoencoder costs, the baselines."""
        p = self.protocol
        table = plain_table(f"{p['count']} held-out clips: error in pixels of 64 after the last given frame")
        for heading in ("given", "", "1", "2", "4", "8", "mean 1-8", "contacts 1-8", *_OLDER):
            table.add_column(heading, justify="left" if heading == "" else "right")
        for given in p["given"]:
            for subject in SUBJECTS:
                errors = [self.error(subject, given, k) for k in (1, 2, 4, 8)]
                errors += [self.error(subject, given), self.error(subject, given, scenarios=CONTACTS)]
                others = [self.mean(subject, given, name) for name in _OLDER]
                label = str(given) if subject == SUBJECTS[0] else ""
                table.add_row(label, subject, *(_number(v) for v in (*errors, *others)))
        return table

    def matching_table(self) -> Table:
        """Places and colours apart: objects matched by their colour alone, and by their place alone."""
        table = plain_table(f"the first {AHEAD} frames: by colour, the error in pixels; by place, what shows there")
        for heading in ("given", "", *_MATCHED):
            table.add_column(heading, justify="left" if heading == "" else "right")
        for given in self.protocol["given"]:
            for subject in SUBJECTS[:2]:
                label = str(given) if subject == SUBJECTS[0] else ""
                table.add_row(label, subject, *(_number(self.mean(subject, given, name)) for name in _MATCHED))
        return table

    def scenario_table(self) -> Table:
        """The mean error over the first 8 frames, by scenario, from the most given frames."""
        given = max(self.protocol["given"])
        table = plain_table(f"mean error over the first {AHEAD} frames from {given} given ones, by scenario")
        for heading in ("", *self.scenarios):
            table.add_column(heading, justify="left" if heading == "" else "right")
        for subject in SUBJECTS:
            table.add_row(subject, *(_number(self.error(subject, given, scenarios=[s])) for s in self.scenarios))
        return table


_OLDER = ("found", "identity", "momentum", "energy", "hits", "timing")
_MATCHED = ("colour_error", "at_place", "place_error", "own_colour", "own_shape")
_MEASURES = (*_OLDER, *_MATCHED)


@torch.no_grad()
def evaluate_physics(
    model: VideoModel,
    protocol: PhysicsProtocol | Mapping[str, Any] | None = None,
    *,
    batch: int = 16,
    sampling: SamplingConfig | Mapping[str, Any] | None = None,
    steering: SteeringConfig | None = None,
    name: str | None = None,
    engine: Engine | None = None,
    events: Listener = None,
) -> PhysicsReport:
    """Predict held-out clips from each number of given frames, and compare with the simulator.

    Nothing but the frames is told: no prompt, no label. Clip k is the same whatever the count and the model.

    Args:
        protocol: which clips, and how many of their frames are given; as a mapping what differs from the defaults.
            Noise of clip k comes from seed + k.
        sampling: the model's own where left out; of guidance that towards what is given.
        steering: how a model that takes nothing given is held to the given frames.
        engine: whose workers predict; none = this process.

    Raises:
        InputError: for a protocol or a batch that can't be, or a model whose clips are too short.
    """
    asked, told = protocol_of(PhysicsProtocol, protocol), events_of(events)
    if batch < 1:
        raise InputError(f"expected a batch of at least 1, got {batch}")
    given, count, first, seed, scenarios = asked.given, asked.count, asked.first, asked.seed, asked.scenarios
    world, notes = matching_world(model)
    if max(given) >= world.frames:
        raise InputError(f"given: expected 1 to {world.frames - 1} of the model's {world.frames} frames")
    worlds = [world.model_copy(update={"scenarios": {s: 1.0}}) for s in scenarios]
    sampling = told_given_alone(model, sampling, steering)
    results: list[Motion] = []
    context = Predicting(world, tuple(worlds), tuple(given), seed, sampling, steering)
    for numbers, found in batches(ModelJob(model, _predict, context), groups(count, batch, first), engine, told):
        results += found
        advance(told, numbers.stop - first, count)
    record = made_by(model, name) | {
        "protocol": asked.name, "given": list(given), "count": count, "first": first, "scenarios": list(scenarios),
        "frames": world.frames, "size": world.size, "fps": world.fps, "batch": batch,
        "noise_seeds": [seed + first, seed + first + count - 1],
        "clip_seeds": sorted({r.clip_seed for r in results}), **unguided(sampling),
        "steering": None if steering is None else steering.model_dump(mode="json"), "told": "frames only",
        "device": str(model.device), "errors": "pixels of the clips' size, scaled to 64",
    }  # fmt: skip
    return PhysicsReport(record, tuple(results), tuple(notes))


@dataclass(frozen=True)
class Predicting:
    """What is predicted: the world, that of each scenario in turn, how many frames are given, and how it is sampled."""

    world: WorldConfig
    worlds: tuple[WorldConfig, ...]
    given: tuple[int, ...]
    seed: int
    sampling: SamplingConfig
    steering: SteeringConfig | None


def _predict(model: VideoModel, how: Predicting, numbers: range, events: Events) -> list[Motion]:
    """Predict some clips from each number of given frames, and look at them."""
    world, results = how.world, list[Motion]()
    clips = [_clip(how.worlds[i % len(how.worlds)], model, i // len(how.worlds)) for i in numbers]
    original = torch.stack([video.to_tensor(clip.frames) for _, clip in clips])
    rebuilt = video.to_uint8(autoencode(model, original))
    requests = [Request(seed=how.seed + i) for i in numbers]
    for turn, n in enumerate(how.given):
        mask = predict_mask(world.frames, world.size, world.size, n).expand(len(clips), 1, -1, -1, -1)
        made = model.complete(original, mask, requests, steering=how.steering, **how.sampling.arguments)
        for (clip_seed, clip), predicted, decoded in zip(clips, video.to_uint8(made), rebuilt, strict=True):
            results += measure_clip(clip, clip_seed, n, {"model": predicted, "reconstructed": decoded})
        advance(events, turn + 1, len(how.given))
    return results


def _clip(world: WorldConfig, model: VideoModel, number: int) -> tuple[int, WorldClip]:
    """The held-out clip of a world with one scenario, and its seed."""
    source = WorldSource(
        WorldSourceConfig(world=world, heldout_count=number + 1, split="heldout"), model.output.autoencoder.spec
    )
    return source.seed(number), make_clip(source.world, source.seed(number))


def measure_clip(clip: WorldClip, clip_seed: int, given: int, videos: dict[str, np.ndarray]) -> list[Motion]:
    """What videos (T, S, S, 3) uint8, by the names of their subjects, and the baselines say of one clip, in pixels of a
    frame of 64."""
    frames, side = clip.frames.shape[:2]
    scale = FRAME / side
    objects = [
        TrueObject(
            o.colour, o.shape, o.position * scale, scale**2 * o.radius**2 * (math.pi if o.shape == "ball" else 4)
        )
        for o in clip.state
    ]
    true = np.stack([o.position for o in objects])
    said: dict[str, tuple[np.ndarray, bool | None]] = {}
    matched: dict[str, dict[str, Any]] = {}
    for subject, shown in videos.items():
        reading = read_world(shown)
        found = find_objects(reading, objects)
        same = all(f is not None and f.shape == o.shape for f, o in zip(found, objects, strict=True))
        paths = np.stack([positions_of(f, frames) * scale for f in found])
        said[subject] = paths, bool(reading.steady and same and reading.count == len(objects))
        matched[subject] = _matched(paths, true, at_places(shown, objects, given), given)
    said["copy last"] = np.stack([copy_last(p, given) for p in true]), None
    said["constant velocity"] = np.stack([constant_velocity(p, given) for p in true]), None
    return [
        dataclasses.replace(_motion(s, clip, clip_seed, given, objects, true, paths, same), **matched.get(s, {}))
        for s, (paths, same) in said.items()
    ]


def _matched(paths: np.ndarray, true: np.ndarray, places: AtPlace, given: int) -> dict[str, float]:
    """The measures of `Motion` that keep places and colours apart, over the first `AHEAD` frames of all objects."""
    off = np.linalg.norm(paths - true, axis=-1)[:, given : given + AHEAD]
    there = places.there[:, :AHEAD]
    shares = {name: values[:, :AHEAD][there] for name, values in (("own_colour", places.colour),
              ("own_shape", places.shape), ("place_error", places.distance))}  # fmt: skip
    return {
        "colour_error": float(off[np.isfinite(off)].mean()) if np.isfinite(off).any() else math.nan,
        "at_place": float(there.mean()),
        **{name: float(values.mean()) if len(values) else math.nan for name, values in shares.items()},
    }


def _motion(
    subject: str,
    clip: WorldClip,
    clip_seed: int,
    given: int,
    objects: Sequence[TrueObject],
    true: np.ndarray,
    paths: np.ndarray,
    identity: bool | None,
) -> Motion:
    there = np.isfinite(paths[:, given:]).all((1, 2))
    # What can't be found counts as if it had stayed where it was: losing an object must not look like a good guess.
    if identity is not None:
        still = np.stack([copy_last(p, given) for p in true])
        paths = np.where(there[:, None, None], paths, still)
    mean = np.linalg.norm(paths - true, axis=-1)[:, given:].mean(0)
    masses = np.array([o.area for o in objects])
    on_ground = tuple(clip.frames[0, -1, 0].tolist()) == GROUND
    gravity = GRAVITY / clip.fps**2 if on_ground else 0.0
    drifts = (math.nan, math.nan)
    if there.all():
        drifts = (
            momentum_drift(paths, true, masses, given),
            energy_drift(paths, true, masses, given, gravity, FLOOR),
        )
    hits = [(contact(t, given), contact(p, given)) for t, p in zip(true, paths, strict=True)]
    real = [(when, seen, strength) for (when, size), (seen, strength) in hits if size >= EVENT]
    off = [abs(when - seen) for when, seen, strength in real if strength >= EVENT]
    return Motion(
        subject, CLASSES[clip.label], given, clip_seed, tuple(mean.tolist()), float(there.mean()), identity, *drifts,
        statistics.fmean(off) if off else math.nan, len(off) / len(real) if real else math.nan,
    )  # fmt: skip


def summary_lines(report: PhysicsReport) -> list[str]:
    """What the tables don't say."""
    p = report.protocol
    return [
        f"{p['sampler']['name']}, {p['sampler']['steps']} steps; {p['precision']}, {p['threads']} threads; told the "
        "given frames only",
        "contacts: bounce and collide; found: share of objects that show; identity: share of clips whose objects keep "
        "colour and shape; momentum, energy: median distance from the simulator's, as a share; hits: share of the true "
        "contacts that the prediction has too; timing: frames between the two",
        "an object that does not show counts as staying where it was last given, but for colour_error, which leaves it "
        f"out; at_place: share of the objects with a spot of any colour within {REACH:g} px of their place; "
        "place_error: how far; own_colour, own_shape: shares of these spots",
        "the baselines know the simulator's positions in the given frames exactly",
        *(f"note: {note}" for note in report.notes),
    ]


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"
