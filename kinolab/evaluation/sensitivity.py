"""Which metric sees what: every metric on clips with known distortions, each at growing strength.

Reconstruction metrics compare a clip with its own distorted copy. Generation metrics take every second clip as a real
one and distort the others. Strength 0 is the same without a distortion. A distortion draws its noise and its order of
frames from the clip's number alone, so that a stronger one is more of the weaker one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from kinolab.contracts.events import Listener, advance, events_of
from kinolab.data import FolderConfig, WorldSourceConfig
from kinolab.errors import InputError
from kinolab.evaluation.clips import Batch, ProtocolClips
from kinolab.evaluation.features import Extractors, extract
from kinolab.evaluation.generation import GenerationScores
from kinolab.evaluation.protocol import Protocol
from kinolab.evaluation.reconstruction import CHUNK, ReconstructionScores
from kinolab.evaluation.sensitivity_report import Response, SensitivityReport
from kinolab.metrics import METRICS
from kinolab.metrics.base import Interval, Metric, MetricValue, Need
from kinolab.metrics.distortions import DISTORTIONS, distort
from kinolab.metrics.features import GROUPS, group_numbers
from kinolab.metrics.frechet import FrechetDistance, frechet_distance
from kinolab.metrics.moments import GroupedMoments
from kinolab.metrics.statistics import MIN_SAMPLES, paired_difference, spread_interval
from kinolab.metrics.temporal import chunk_borders
from kinolab.runtime.devices import choose
from kinolab.training.randomness import sample_seed

Condition = tuple[str, float]
"""A distortion and its strength."""
Values = Mapping[Condition, Mapping[str, MetricValue]]
Scores = Mapping[Condition, Mapping[str, Sequence[float]]]

STRENGTHS = (0.25, 0.5, 1.0)
"""Of `distort`, where 1 is the strongest."""
PLAIN: Condition = ("none", 0.0)
SPATIAL_RATIO = 8
"""The decoder grid that is looked for: that of the shipped autoencoder, and of most published ones."""


@torch.no_grad()
def evaluate_sensitivity(
    data: str | Path | FolderConfig | WorldSourceConfig,
    reconstruction: Protocol,
    generation: Protocol,
    *,
    count: int = 64,
    strengths: Sequence[float] = STRENGTHS,
    batch: int = 8,
    device: torch.device | str = "auto",
    events: Listener = None,
) -> SensitivityReport:
    """Measure every metric of two protocols on distorted clips.

    count: clips that are distorted; for generation as many again are the real ones. It takes the place of the
    protocols' `samples`, and the hashes of the report are those of protocols of so many.

    Raises:
        InputError: for strengths that do not grow, or fewer clips than the protocols' minimum.
    """
    levels = tuple(float(s) for s in strengths)
    if not levels or min(levels) <= 0 or max(levels) > 1 or any(b <= a for a, b in pairwise(levels)):
        raise InputError(f"expected growing strengths above 0 and up to 1, got {', '.join(map(str, strengths))}")
    left = _left_out(generation)
    notes = [f"{name} is left out: {why}" for name, why in left.items()]
    kept = tuple(m for m in generation.metrics if m not in left)
    pairs = reconstruction.model_copy(update={"samples": count})
    sets = generation.model_copy(update={"samples": 2 * count, "metrics": kept})
    clips = {"reconstruction": ProtocolClips(data, pairs), "generation": ProtocolClips(data, sets)}
    for protocol, least in ((pairs, pairs.minimum), (sets, 2 * sets.minimum)):
        if len(clips[protocol.kind]) < least:
            raise InputError(
                f"{protocol.name} asks for at least {least} clips here, got {len(clips[protocol.kind])}: raise the "
                "count, give it more clips, or lower `minimum` in a copy of the protocol"
            )
    conditions = [PLAIN, *((kind, s) for kind in DISTORTIONS for s in levels)]
    told, where = _Told(sum(map(len, clips.values())), events), choose(device)
    responses = [
        *_reconstruction(clips["reconstruction"], pairs, conditions, told.watch, batch, where, notes),
        *_generation(clips["generation"], sets, conditions, told.watch, batch, where, notes),
    ]
    described = {kind: c.describe() for kind, c in clips.items()}
    protocols = {"reconstruction": pairs, "generation": sets}
    return SensitivityReport(levels, protocols, described, tuple(responses), tuple(dict.fromkeys(notes)))


def _left_out(protocol: Protocol) -> dict[str, str]:
    """The metrics of a protocol that a distortion says nothing new of, and why."""
    found = {}
    for name in METRICS.names(protocol.kind):
        cls = METRICS.get(name) if name in protocol.metrics else Metric
        if name in cls.derived:
            found[name] = cls.derived[name]
        elif "captions" in cls.needs:
            found[name] = "it looks at the prompt"
    return found


def distorted(video: Tensor, condition: Condition, seed: int, first: int) -> Tensor:
    """Clips (B, 3, T, H, W), the first of them with number `first`, under a condition.

    Each has a generator of its own, the same at every strength.
    """
    kind, strength = condition
    if strength == 0:
        return video
    sources = [torch.Generator().manual_seed(sample_seed(seed, first + k, kind)) for k in range(len(video))]
    return torch.stack([distort(c, kind, strength, g) for c, g in zip(video, sources, strict=True)])


def difference(a: MetricValue, b: MetricValue) -> Interval | None:
    """The interval of a - b from their own intervals, taken as independent (Zou and Donner 2008).

    Too wide, so on the safe side, where both were measured on the same clips and err together.
    """
    if a.interval is None or b.interval is None:
        return None
    gap = a.value - b.value
    low = math.hypot(a.value - a.interval.low, b.interval.high - b.value)
    high = math.hypot(a.interval.high - a.value, b.value - b.interval.low)
    return Interval(gap - low, gap + high, "two intervals", a.interval.level)


class _Told:
    """Says how many clips are done, over both kinds."""

    def __init__(self, total: int, events: Listener) -> None:
        self.total, self.done, self.events = total, 0, events_of(events)

    def watch(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        for batch in batches:
            yield batch
            self.done += len(batch.names)
            advance(self.events, self.done, self.total)


Watch = Callable[[Iterable[Batch]], Iterable[Batch]]


def _reconstruction(
    clips: ProtocolClips,
    protocol: Protocol,
    conditions: Sequence[Condition],
    watch: Watch,
    batch: int,
    device: torch.device,
    notes: list[str],
) -> list[Response]:
    ratio = SPATIAL_RATIO if not any(side % SPATIAL_RATIO for side in clips.size) else None
    if ratio is None and "grid" in protocol.metrics:
        notes.append(f"grid and detail are left out: the sides are not multiples of {SPATIAL_RATIO}")
    step = protocol.chunk or CHUNK
    borders = chunk_borders(clips.frames, 1 + step, step) if clips.frames > 3 else []
    lacking: dict[Need, str] = {} if ratio else {"grid": f"the sides are not multiples of {SPATIAL_RATIO}"}
    scores = {c: ReconstructionScores(protocol, ratio, device, lacking) for c in conditions}
    done = 0
    for group in watch(clips.batches(batch)):
        for condition, score in scores.items():
            spoiled = distorted(group.video, condition, protocol.seed, done)
            score.update(group, spoiled, chunked=(spoiled, borders) if borders else None)
        done += len(group.names)
    values = {c: score.values([]) for c, score in scores.items()}
    return responses_of(values, {c: score.per_clip() for c, score in scores.items()})


def _generation(
    clips: ProtocolClips,
    protocol: Protocol,
    conditions: Sequence[Condition],
    watch: Watch,
    batch: int,
    device: torch.device,
    notes: list[str],
) -> list[Response]:
    extractors, fps = Extractors(protocol, device), float(clips.record(0).fps)
    quality = {c: GenerationScores(protocol, extractors, fps) for c in conditions}
    real: list[dict[str, Tensor]] = []
    made: dict[Condition, list[dict[str, Tensor]]] = {c: [] for c in conditions}
    done = 0
    for group in watch(clips.batches(2 * batch)):
        pairs = len(group.names) // 2  # of an odd last one there is no partner
        if not pairs:
            continue
        real.append(extractors(group.video[0 : 2 * pairs : 2]))
        for c in conditions:
            spoiled = Batch(group.names[1::2], distorted(group.video[1::2], c, protocol.seed, done))
            made[c].append(extract(quality[c].watch(iter([spoiled])), extractors, pairs))
        done += pairs
    truth, features = _joined(real), {c: _joined(parts) for c, parts in made.items()}
    values = {c: quality[c].values(truth, features[c], notes) for c in conditions}
    classes = [(n, METRICS.get(n)) for n in values[PLAIN]]
    roles = [(n, cls.weights) for n, cls in classes if issubclass(cls, FrechetDistance) and cls.weights]
    roles = roles if done >= MIN_SAMPLES else []
    known = {n: frechet_differences(truth[r], {c: f[r] for c, f in features.items()}, done) for n, r in roles}
    return responses_of(values, {c: q.per_clip() for c, q in quality.items()}, known)


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {role: torch.cat([p[role] for p in parts]) for role in parts[0]}


def frechet_differences(real: Tensor, made: Mapping[Condition, Tensor], clips: int) -> dict[Condition, Interval]:
    """Intervals of how much farther than `PLAIN` each distorted set lies from the real one; features are (N, D).

    Delete-group jackknife of the difference itself: both distances are to the same real clips, of the same clips
    before and after the distortion, so most of their noise is common and cancels. Groups are of whole `clips`, of
    which each has N / clips features: the frames of a clip are no independent samples.
    """
    groups = group_numbers(0, clips, GROUPS, 0).repeat_interleave(len(real) // clips)
    truth, sides = _grouped(real, groups), {c: _grouped(x, groups) for c, x in made.items()}
    filled = groups.unique().tolist()
    rest = {g: [k for k in filled if k != g] for g in filled}

    def distances(side: GroupedMoments) -> list[list[float]]:
        whole, x = truth.total(), side.total()
        return [
            [frechet_distance(whole, x)],
            [frechet_distance(truth.subset(rest[g]), x) for g in filled],
            [frechet_distance(whole, side.subset(rest[g])) for g in filled],
        ]

    plain, found = distances(sides[PLAIN]), {}
    for condition, side in sides.items():
        pairs = zip(distances(side), plain, strict=True)
        (value,), *parts = [[a - b for a, b in zip(x, y, strict=True)] for x, y in pairs]
        found[condition] = spread_interval(value, parts)
    return found


def _grouped(features: Tensor, groups: Tensor) -> GroupedMoments:
    moments = GroupedMoments(features.shape[1], GROUPS)
    for number, part in enumerate(moments.parts):
        part.update(features[groups == number])
    return moments


def responses_of(
    values: Values, per_clip: Scores, known: Mapping[str, Mapping[Condition, Interval]] | None = None
) -> list[Response]:
    """Every metric that has a value under all conditions, `PLAIN` among them, with every distortion.

    Scores of single clips are compared clip by clip (`paired_difference`), those of whole sets by their intervals,
    where the interval of the difference is not `known`.
    """
    given = known or {}
    found = []
    for name, plain in values[PLAIN].items():
        if any(name not in v for v in values.values()):
            continue
        for kind in DISTORTIONS:
            levels = [c for c in values if c[0] == kind]
            gaps = [
                given[name][c]
                if name in given
                else _gap(values[c][name], plain, per_clip[c].get(name), per_clip[PLAIN].get(name))
                for c in levels
            ]
            chosen = (plain, *(values[c][name] for c in levels))
            found.append(Response(name, kind, tuple(s for _, s in levels), chosen, tuple(gaps)))
    return found


def _gap(
    a: MetricValue, b: MetricValue, a_scores: Sequence[float] | None, b_scores: Sequence[float] | None
) -> Interval | None:
    if a_scores is None or b_scores is None or len(a_scores) != len(b_scores):
        return difference(a, b)
    return paired_difference(a_scores, b_scores)[1]
