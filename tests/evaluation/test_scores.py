"""A report of scores: its JSON, its table and its lines."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from kinolab.evaluation.protocol import Protocol
from kinolab.evaluation.records import settings_hash
from kinolab.evaluation.scores import (
    ClipScore,
    ScoreReport,
    clip_scores,
    finite,
    interval_text,
    shown,
)
from kinolab.metrics import METRICS, digits_of
from kinolab.metrics.base import Interval, MetricValue
from kinolab.runtime.summed import ENTRY

PROTOCOL = Protocol(name="p", kind="generation", metrics=("fvd", "kvd", "dynamic_degree"))
REPORT = ScoreReport(
    subject={"name": "mine", "kind": "folder", "sha256": "s"},
    data={"name": "clips", "clips": 2},
    protocol=PROTOCOL,
    protocol_hash="0123456789abcdef",
    metrics={
        "fvd": MetricValue(12.3456, 20, {"extractor": "encoder"}, Interval(10.0, 14.0, "jackknife")),
        "kvd": MetricValue(math.nan, 20, {}, Interval(-math.inf, math.inf, "jackknife")),
        "dynamic_degree": MetricValue(0.5, 2),
    },
    clips=(ClipScore("a", {"dynamic_degree": 1.0}, "/out/videos/a.mp4"), ClipScore("b", {"dynamic_degree": math.nan})),
    facts={
        "latents": [4, 5, 8, 8],
        "encode_seconds": 0.123456,
        "sampler": {"name": "euler", "steps": 3, "interval": [0.0, 0.8]},
    },
    notes=("one", "two"),
)


def test_json_holds_everything_and_what_is_no_number_is_null() -> None:
    record = json.loads(REPORT.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert set(record) - {ENTRY} == {
        "kind", "subject", "data", "protocol", "protocol_hash", "metrics", "groups", "facts", "clips", "notes",
    }  # fmt: skip
    assert list(record)[-1] == ENTRY, "its sum"
    assert record["kind"] == "generation" and record["protocol_hash"] == "0123456789abcdef"
    assert record["metrics"]["fvd"] == {
        "value": 12.3456, "count": 20, "protocol": {"extractor": "encoder"},
        "interval": {"low": 10.0, "high": 14.0, "method": "jackknife", "level": 0.95},
    }  # fmt: skip
    assert record["metrics"]["kvd"]["value"] is None
    assert record["metrics"]["kvd"]["interval"]["low"] is record["metrics"]["kvd"]["interval"]["high"] is None
    assert record["metrics"]["dynamic_degree"]["interval"] is None
    assert record["clips"][1] == {"name": "b", "scores": {"dynamic_degree": None}, "video": None}
    assert record["notes"] == ["one", "two"] and record["facts"]["latents"] == [4, 5, 8, 8]
    assert Protocol.model_validate(record["protocol"]) == PROTOCOL, "a report says how to measure again"


def test_videos_are_named_from_where_the_report_lies() -> None:
    assert json.loads(REPORT.to_json())["clips"][0]["video"] == "/out/videos/a.mp4"
    assert json.loads(REPORT.to_json(Path("/out")))["clips"][0]["video"] == "videos/a.mp4"


def test_finite_goes_through_everything() -> None:
    value = {"a": [1.0, math.inf, (math.nan, "x")], "b": {"c": -math.inf, "d": True, "e": None}}
    assert finite(value) == {"a": [1.0, None, [None, "x"]], "b": {"c": None, "d": True, "e": None}}


def test_the_table_has_a_row_per_score_in_order() -> None:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(REPORT.table())
    title, _, _, *rows = [line for line in capture.get().splitlines() if line.strip()]
    assert "mine on clips: p [0123456789ab]" in title
    cells = [row.split() for row in rows]
    assert cells[0] == ["fvd", "12.35", "10.00", "to", "14.00", "20", "lower"]
    assert cells[1] == ["kvd", "-", "-", "to", "-", "20", "lower"]
    assert cells[2] == ["dynamic_degree", "0.5000", "-", "2", "-"]


def test_lines_are_facts_and_notes() -> None:
    assert REPORT.lines() == [
        "latents: 4 x 5 x 8 x 8", "encode seconds: 0.1235", "sampler: name euler, steps 3, interval 0 to 0.8",
        "note: one", "note: two",
    ]  # fmt: skip


def test_scores_are_shown_with_their_digits() -> None:
    assert {digits_of(name) for name in METRICS} >= {2, 3, 4, 5} and digits_of("of nobody") == 4
    assert (shown("psnr", 30.126), shown("ssim", 0.98765), shown("fvd", math.inf)) == ("30.13", "0.9877", "-")
    assert interval_text("psnr", MetricValue(1.0, 2)) == "-"
    assert interval_text("psnr", MetricValue(1.0, 2, {}, Interval(0.5, 1.5, "bootstrap"))) == "0.50 to 1.50"


def test_a_metric_that_left_clips_out_gives_no_score_per_clip() -> None:
    found = clip_scores(["a", "b"], {"psnr": [1.0, 2.0], "warp": [3.0]}, {1: "b.mp4"})
    assert found == (ClipScore("a", {"psnr": 1.0}), ClipScore("b", {"psnr": 2.0}, "b.mp4"))


def test_a_students_settings_are_its_teachers() -> None:
    made_for = {"model": "student", "distilled": "matching, for 4 steps of consistency, guidance 3 distilled in"}
    settings = {"protocol": "toy-world", "count": 8, "frames": 16}
    assert settings_hash({**settings, **made_for}) == settings_hash({**settings, "model": "teacher"})
    assert settings_hash({**settings, "count": 9}) != settings_hash(settings)
