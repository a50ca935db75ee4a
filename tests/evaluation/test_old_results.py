"""Results in the forms of 0.1.0 are read as scores: the same values under the same names as those of today's form."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from kinolab.evaluation.old_results import FORMS, in_one_form
from kinolab.evaluation.physics import SUBJECTS, Motion, PhysicsReport
from kinolab.evaluation.sensitivity_report import Response, SensitivityReport
from kinolab.evaluation.tasks import TaskResult, TasksReport
from kinolab.evaluation.world_report import CHECKS, ClipResult, Share, WorldReport
from kinolab.metrics import METRICS
from kinolab.metrics.base import Interval, MetricValue
from kinolab.metrics.distortions import DISTORTIONS
from kinolab.models import ModelConfig
from kinolab.planning.cost_report import CostReport, Memory, Once, Phase
from kinolab.planning.settings import Lists, full_run
from kinolab.planning.tune_report import Outcome, TuneReport
from tests.closeness import assert_within

NEW = ("kind", "subject", "data", "metrics", "groups", "facts")
"""What 0.1.0 did not write for these kinds; the clips' own scores aside."""
MADE = {"model": "m", "model_sha256": "0" * 64}


def world() -> WorldReport:
    checks: list[Any] = [dict.fromkeys(CHECKS, k > 0) | {"direction": None if k % 2 else k > 2} for k in range(6)]
    clips = [
        ClipResult(subject, "fall", f"a ball {k}", k, k, c, 0.5 + k)
        for k, c in enumerate(checks)
        for subject in ("generated", "true", "reconstructed")
    ]
    protocol = MADE | {"count": 6, "first": 0, "asked_with": "prompt"}
    return WorldReport(protocol, tuple(clips), MetricValue(30.0, 6), MetricValue(0.9, 6), 1.5, ("a note",))


def physics() -> PhysicsReport:
    motions = [
        Motion(s, "bounce" if k % 2 else "fall", given, k, (1.0 + k, 2.0, math.nan), 1.0, k > 1, 0.1 * k, 0.2, 1.0, 0.5)
        for k in range(6)
        for given in (2, 1)
        for s in SUBJECTS
    ]
    return PhysicsReport(MADE | {"given": [2, 1], "count": 6}, tuple(motions))


def tasks() -> TasksReport:
    psnrs = {"given_psnr": [30.0, 31.0, 32.0], "made_psnr": [20.0, 21.0, 25.0]}
    own = psnrs | {"position_error": [[1.0, 2.0], [3.0], []], "found": [[1.0], [1.0], [0.0]]}
    results = [TaskResult(t, 31.0, 31.0, 22.0, 22.0, 2.0, 2 / 3, own, psnrs) for t in ("predict", "past")]
    return TasksReport(MADE | {"count": 3, "frames": 5}, tuple(results), ("one was refused",))


def tune() -> TuneReport:
    own = ModelConfig.model_construct()  # type: ignore[call-arg]
    full, _ = full_run(ModelConfig.model_validate({"autoencoder": {"kind": "image"}}), Lists())
    fast = full.model_copy(update={"precision": "bfloat16"})
    psnrs = (40.0, 41.0, 42.0, 43.0)
    outcomes = [
        Outcome(setting, (1.0 / k, 2.0 / k, 3.0 / k), float(k), 1.0, 41.5, 40.0, 0.1, Share(k, 4), 0, 0, True, psnrs)
        for k, setting in enumerate((full, fast), start=1)
    ]
    return TuneReport(MADE | {"clips": 4, "load": 3.0}, tuple(outcomes), own)


def plan() -> CostReport:
    phases = (Phase(0, 10, (0.0, 0.0), (1.0, 2.0), 1.0, None, 10),)
    memory = Memory(4_000, 8_000, 1, 1, 1, 1, 0, None)
    protocol = {"name": "r", "batch_size": 2, "device": "cpu"}
    return CostReport(
        protocol, 10, {"a": 1}, phases, Once(), Once(), Once(1.0, 9, 2), 2, 5, 0, 10, memory, 2.0, "USD", (), ()
    )


def sensitivity() -> SensitivityReport:
    values = [MetricValue(30.0 - k, 4, {}, Interval(29.0 - k, 31.0 - k, "bootstrap")) for k in range(3)]
    gap = Interval(-1.5, -0.5, "bootstrap")
    responses = [Response("psnr", kind, (0.5, 1.0), tuple(values), (gap, gap)) for kind in DISTORTIONS]
    return SensitivityReport((0.5, 1.0), {}, {}, tuple(responses))


MAKERS: dict[str, Any] = {
    "world": world, "physics": physics, "tasks": tasks, "tune": tune, "plan": plan, "sensitivity": sensitivity,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAKERS)
def test_both_forms_hold_the_same_scores(kind: str) -> None:
    record = json.loads(MAKERS[kind]().to_json())
    assert record["kind"] == kind and len(record["protocol_hash"]) == 64 and in_one_form(record) == record
    older = in_one_form({k: v for k, v in record.items() if k not in NEW})
    assert older["kind"] == kind and older["metrics"].keys() <= record["metrics"].keys()
    assert len(older["groups"]) == len(record["groups"]) and older["protocol_hash"]
    pairs = [(older["metrics"], record["metrics"])]
    pairs += zip(older["groups"].values(), record["groups"].values(), strict=True)
    compared = 0
    for then, now in pairs:
        for name, score in then.items():
            if name in now and score["value"] is not None:
                assert_within(score["value"], now[name]["value"], 1e-9 * max(1.0, abs(score["value"])), name)
                compared += 1
    assert compared >= len(record["metrics"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAKERS)
def test_every_score_is_of_the_table_and_has_an_interval(kind: str) -> None:
    report = MAKERS[kind]().scores()
    everything = {**report.metrics, **{k: v for group in report.groups.values() for k, v in group.items()}}
    assert everything and all(name in METRICS for name in everything)
    assert {kind for _, kind, _ in FORMS} == set(MAKERS)
    sure = [name for name, value in everything.items() if value.interval is not None]
    assert sure and all(everything[n].interval.low <= everything[n].value <= everything[n].interval.high for n in sure)
    assert report.table().row_count == len(report.metrics), "one table for all kinds"


def test_the_hash_is_of_what_decides_the_score_and_not_of_the_machine() -> None:
    one, same = tune(), tune()
    assert one.scores().protocol_hash == same.scores().protocol_hash
    other = TuneReport(MADE | {"clips": 5}, one.outcomes, one.own)
    loaded = TuneReport(MADE | {"clips": 4, "load": 9.0}, one.outcomes, one.own)
    assert loaded.scores().protocol_hash == one.scores().protocol_hash != other.scores().protocol_hash


def test_what_is_of_no_kind_stays_as_it_is() -> None:
    assert in_one_form({"seconds": 1.0}) == {"seconds": 1.0}
