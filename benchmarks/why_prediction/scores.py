"""The measures of `kinolab evaluate physics` over the first 8 frames from 8 given ones, for models of few clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.why_prediction.drift import SAMPLING, match, predict, summary
from kinolab.contracts.method import Method
from kinolab.evaluation.physics import AHEAD, measure_clip
from kinolab.methods import GuidanceConfig
from kinolab.metrics.base import MetricValue
from kinolab.metrics.summaries import scores_of
from kinolab.models import VideoModel
from kinolab.toyworld.clips import WorldClip

GIVEN = 8
MEASURES = ("identity", "at_place", "place_error", "own_colour", "own_shape")


def scores(
    model: VideoModel,
    held: Sequence[WorldClip],
    guidance: GuidanceConfig | None = None,
    methods: Sequence[Method] = (),
) -> dict[str, Any]:
    """Each measure with its interval, of the model and of both baselines, and the drift by frame ahead."""
    sampler, _ = SAMPLING["euler 25"]
    made = predict(model, held, GIVEN, sampler, guidance or GuidanceConfig(), methods=methods)
    motions = [motion for k, (f, c) in enumerate(zip(made, held, strict=True))
               for motion in measure_clip(c, k, GIVEN, {"model": f})]  # fmt: skip
    found: dict[str, Any] = {}
    for subject in ("model", "copy last", "constant velocity"):
        rows = [m for m in motions if m.subject == subject]
        values: dict[str, Any] = {"position_error": [m.errors[:AHEAD] for m in rows]}
        values |= {name: [getattr(m, name) for m in rows] for name in MEASURES}
        found[subject] = {name: rounded(value) for name, value in scores_of(values).items()}
    found["drift"] = summary([match(f, c, GIVEN) for f, c in zip(made, held, strict=True)], range(1, 10))
    return found


def rounded(score: MetricValue) -> list[float]:
    """A score, and the ends of its interval where it has one."""
    ends = [] if score.interval is None else [score.interval.low, score.interval.high]
    return [round(value, 3) for value in (score.value, *ends)]
