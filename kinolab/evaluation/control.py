"""How well a model follows its control maps, measured on the toy world, where every object's place is known.

From each held-out clip a map is made (trajectories, edges, depth), and a clip is generated from its objects' caption
and that map. Positions are read from the pixels of every frame by itself and compared with the simulator's; beside the
model stand the same noise and caption without the map, and the true clip put through the autoencoder (what its decoder
and the reader cost).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kinolab import video
from kinolab.contracts.engine import Engine
from kinolab.contracts.events import Events, Listener, advance, events_of
from kinolab.errors import InputError
from kinolab.evaluation.by_workers import ModelJob, batches, groups
from kinolab.evaluation.records import plain_table
from kinolab.evaluation.scores import ClipScore, ScoreReport, Settings
from kinolab.evaluation.toy_protocols import ControlProtocol, protocol_of
from kinolab.evaluation.world import autoencode, made_by
from kinolab.generation.matching import matching_world
from kinolab.generation.request import SamplingConfig, sampling_of
from kinolab.methods import GuidanceConfig
from kinolab.metrics.summaries import scores_of
from kinolab.models import Request, VideoModel
from kinolab.toyworld.clips import WorldClip, make_clip
from kinolab.toyworld.reader import Spot, read_spots
from kinolab.toyworld.scenes import FRAME
from kinolab.toyworld.source import WorldSource, WorldSourceConfig
from kinolab.toyworld.words import WorldRequest, phrasings

if TYPE_CHECKING:
    from rich.table import Table

SUBJECTS = ("model", "without the map", "reconstructed")
NEAR = 2.0
"""Pixels of 64 within which an object is where the map says."""
MEASURES = ("position_error", "found", "followed", "colour_kept", "shape_kept")


@dataclass(frozen=True)
class Followed:
    """What one subject shows of one clip, for each object in each frame.

    errors: pixels of 64 between the object's true place and the nearest spot's, the spots shared out so that the sum is
    least; NaN where there are too few. right: whether that spot has the object's colour, and its shape.
    """

    subject: str
    clip_seed: int
    errors: tuple[float, ...]
    right: tuple[tuple[bool, bool], ...]

    @property
    def known(self) -> list[float]:
        """The errors of those that show."""
        return [e for e in self.errors if math.isfinite(e)]

    def numbers(self) -> dict[str, list[float]]:
        """By the names of the scores; what does not show is not where it should be."""
        shares = {
            "found": [float(math.isfinite(e)) for e in self.errors],
            "followed": [float(e <= NEAR) for e in self.errors],
            "colour_kept": [float(colour) for colour, _ in self.right],
            "shape_kept": [float(shape) for _, shape in self.right],
        }
        return {"position_error": self.known, **shares}

    def score(self) -> ClipScore:
        """The clip's own scores."""
        means = {name: statistics.fmean(values) if values else math.nan for name, values in self.numbers().items()}
        return ClipScore(f"{self.subject} {self.clip_seed}", means, None, dataclasses.asdict(self))


@dataclass(frozen=True)
class ControlReport:
    """The results, and all that must be equal for two of them to be comparable."""

    protocol: dict[str, Any]
    results: tuple[Followed, ...]
    notes: tuple[str, ...] = field(default=())

    def rows(self, subject: str) -> list[Followed]:
        """The results of one subject."""
        return [r for r in self.results if r.subject == subject]

    def of(self, subject: str) -> dict[str, Any]:
        """The scores of one subject; a clip is one sample, whose frames and objects stay together."""
        rows = [r.numbers() for r in self.rows(subject)]
        return scores_of({name: [row[name] for row in rows] for name in MEASURES})

    def scores(self) -> ScoreReport:
        """The model's scores, and beside them those of what it is held against."""
        p, protocol = self.protocol, Settings("control", self.protocol)
        subject = {"name": p["model"], "kind": "model", "sha256": p["model_sha256"]}
        return ScoreReport(
            subject, {"name": "toy world", "clips": p["count"]}, protocol, protocol.hash(), self.of("model"),
            tuple(r.score() for r in self.results), {}, self.notes, {name: self.of(name) for name in SUBJECTS[1:]}, {},
        )  # fmt: skip

    def to_json(self) -> str:
        """Protocol, scores with their intervals, and every clip's own result."""
        return self.scores().to_json()

    def table(self) -> Table:
        """One row per subject, each score with its interval."""
        p = self.protocol
        table = plain_table(f"{p['count']} held-out clips of {p['frames']} frames by {p['map']}: positions in px of 64")
        for heading in ("", "position error", "found", f"within {NEAR:g} px", "colour", "shape"):
            table.add_column(heading, justify="right" if heading else "left")
        for subject in SUBJECTS:
            scores = self.of(subject)
            cells = [_cell(scores.get(name), percent=name != "position_error") for name in MEASURES]
            table.add_row(subject, *cells)
        return table


def _cell(value: Any, *, percent: bool) -> str:
    """A score and its interval."""
    if value is None:
        return "-"
    shown = (lambda v: f"{100 * v:.0f}%") if percent else (lambda v: f"{v:.2f}")
    around = value.interval
    return shown(value.value) + ("" if around is None else f" ({shown(around.low)} to {shown(around.high)})")


@torch.no_grad()
def evaluate_control(
    model: VideoModel,
    protocol: ControlProtocol | Mapping[str, Any] | None = None,
    *,
    batch: int = 8,
    sampling: SamplingConfig | Mapping[str, Any] | None = None,
    name: str | None = None,
    engine: Engine | None = None,
    events: Listener = None,
) -> ControlReport:
    """Generate held-out clips from their maps, and compare with the simulator.

    Args:
        protocol: which clips and which map; as a mapping what differs from the defaults. Noise of clip k comes from
            seed + k.
        sampling: the model's own where left out.
        engine: whose workers generate; none = this process.

    Raises:
        InputError: for a protocol or a batch that can't be, or a model without a control network for the map.
    """
    asked, told = protocol_of(ControlProtocol, protocol), events_of(events)
    if batch < 1:
        raise InputError(f"expected a batch of at least 1, got {batch}")
    if asked.map not in model.spec.ports:
        known = ", ".join(model.network.controls) or "none"
        raise InputError(f"map {asked.map}: this model has no control network that reads it; it has {known}")
    source, notes = _source(model, asked)
    how = sampling_of(model.config, sampling)
    if not _prompted(model, asked) and how.guidance == model.config.guidance:
        how = how.model_copy(update={"guidance": GuidanceConfig()})  # there is nothing to guide towards
    results: list[Followed] = []
    job = ModelJob(model, _follow, (asked, source, how))
    for numbers, found in batches(job, groups(asked.count, batch, asked.first), engine, told):
        results += found
        advance(told, numbers.stop - asked.first, asked.count)
    record = made_by(model, name) | {
        "protocol": asked.name, "map": asked.map, "count": asked.count, "first": asked.first,
        "prompt": _prompted(model, asked),
        "frames": source.frames, "size": source.world.size, "fps": source.world.fps, "batch": batch,
        "noise_seeds": [asked.seed + asked.first, asked.seed + asked.first + asked.count - 1], **how.record(),
        "device": str(model.device), "errors": "pixels of the clips' size, scaled to 64",
    }  # fmt: skip
    return ControlReport(record, tuple(results), tuple(notes))


def _follow(
    model: VideoModel, context: tuple[ControlProtocol, WorldSource, SamplingConfig], numbers: range, events: Events
) -> list[Followed]:
    """Make some clips with the map and without it, and look at them."""
    asked, source, how = context
    results = list[Followed]()
    clips = [make_clip(source.world, source.seed(i)) for i in numbers]
    original = torch.stack([video.to_tensor(clip.frames) for clip in clips])
    requests = [_request(model, asked, clip, asked.seed + i, source) for i, clip in zip(numbers, clips, strict=True)]
    given = [dataclasses.replace(r, conditions={asked.map: clip}) for r, clip in zip(requests, original, strict=True)]
    shown = {"model": _made(model, given, how), "without the map": _made(model, requests, how)}
    shown["reconstructed"] = autoencode(model, original)
    for subject, clips_of in shown.items():
        for i, clip, frames in zip(numbers, clips, video.to_uint8(clips_of), strict=True):
            results.append(followed(subject, source.seed(i), clip, frames))
    return results


def _source(model: VideoModel, asked: ControlProtocol) -> tuple[WorldSource, list[str]]:
    """The held-out clips, as the model makes its own but for their length."""
    world, notes = matching_world(model)
    frames = asked.frames or (world.frames if world.frames > 1 else 8)
    config = WorldSourceConfig(
        world=world.model_copy(update={"frames": frames}), heldout_count=asked.first + asked.count, split="heldout"
    )
    return WorldSource(config, model.output.autoencoder.spec), notes[:-1] if frames > world.frames else notes


def _prompted(model: VideoModel, asked: ControlProtocol) -> bool:
    """Whether captions are told."""
    return asked.prompt and model.text_encoder is not None and "text" in model.spec.ports


def _request(model: VideoModel, asked: ControlProtocol, clip: WorldClip, seed: int, source: WorldSource) -> Request:
    """A clip's objects and its shape; what happens to them only the map says."""
    prompt = phrasings(WorldRequest(clip.request.objects))[0] if _prompted(model, asked) else None
    return Request(prompt, None, source.frames, model.output.config.size, seed)


def _made(model: VideoModel, requests: Sequence[Request], how: SamplingConfig) -> Tensor:
    """Clips (B, 3, T, H, W) of requests."""
    return model.decode(model.sample_latents(requests, **how.arguments)).cpu()


def followed(subject: str, seed: int, clip: WorldClip, frames: np.ndarray) -> Followed:
    """Where a clip's objects are in frames (T, H, W, 3) uint8, against the simulator."""
    spots = read_spots(frames)
    errors, right = list[float](), list[tuple[bool, bool]]()
    for t in range(len(frames)):
        here = [spot for spot in spots if spot.time == t]
        for o, spot in zip(clip.state, assigned([o.position[t] for o in clip.state], here), strict=True):
            if spot is None:
                errors.append(math.nan)
                right.append((False, False))
                continue
            away = math.hypot(spot.x - o.position[t, 0], spot.y - o.position[t, 1])
            errors.append(away * FRAME / min(frames.shape[1:3]))
            right.append((spot.colour == o.colour, (spot.squareness > 0.5) == (o.shape == "box")))
    return Followed(subject, seed, tuple(errors), tuple(right))


def assigned(places: Sequence[np.ndarray], spots: Sequence[Spot]) -> list[Spot | None]:
    """The spot of each place, so that the sum of the distances is least; None for places that get none.

    Of many spots the largest eight are looked at.
    """
    largest = sorted(spots, key=lambda s: -s.area)[:8]
    padded: list[Spot | None] = [*largest, *[None] * max(0, len(places) - len(largest))]
    orders: list[list[Spot | None]] = [list(order) for order in itertools.permutations(padded, len(places))]
    sums = [
        sum(math.hypot(s.x - p[0], s.y - p[1]) for p, s in zip(places, order, strict=True) if s is not None)
        for order in orders
    ]
    return orders[sums.index(min(sums))]


def summary_lines(report: ControlReport) -> list[str]:
    """What the table doesn't say."""
    p = report.protocol
    told = "the objects' caption and the map" if p["prompt"] else "the map alone"
    return [
        f"{p['sampler']['name']}, {p['sampler']['steps']} steps; {p['precision']}, {p['threads']} threads; told {told}",
        f"within {NEAR:g} px, colour, shape: shares of all objects in all frames; what does not show counts as wrong",
        "without the map: the same noise and caption; reconstructed: the true clips through the autoencoder",
        "intervals: 95%, over clips",
        *(f"note: {note}" for note in report.notes),
    ]
