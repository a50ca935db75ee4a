"""Which metric sees what: the order of distortions, the verdicts, and the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from kinolab.cli import evaluate
from kinolab.errors import InputError
from kinolab.evaluation.protocol import load_protocol
from kinolab.evaluation.sensitivity import PLAIN, difference, distorted, evaluate_sensitivity, frechet_differences
from kinolab.evaluation.sensitivity_report import Response, SensitivityReport, Verdict, badness, judge
from kinolab.metrics.base import Interval, MetricValue
from kinolab.metrics.distortions import DISTORTIONS
from kinolab.metrics.features import HARD_MINIMUM
from tests.closeness import assert_close

PAIRS = ["metrics=[psnr, ssim, ssim3d, flicker, warp, grid, rfvd]", "size=32", "frames=9"]
QUALITY = ["metrics=[fvd_infinite, temporal_flickering, motion_smoothness, dynamic_degree]", "size=32", "frames=12"]
DISTANCES = ["metrics=[fvd, kvd]"]


@pytest.fixture(scope="module")
def report() -> SensitivityReport:
    """All but the distances, on few small clips."""
    pairs, sets = load_protocol("toy-reconstruction", PAIRS), load_protocol("toy-generation", QUALITY)
    return evaluate_sensitivity("world", pairs, sets, count=16)


@pytest.fixture(scope="module")
def distances() -> SensitivityReport:
    """The distances of sets, which need more clips, as large and long as the protocol has them."""
    pairs = load_protocol("toy-reconstruction", ["metrics=[psnr]", "size=32", "frames=2"])
    return evaluate_sensitivity("world", pairs, load_protocol("toy-generation", DISTANCES), count=48)


def interval(low: float, high: float) -> Interval:
    return Interval(low, high, "test")


@pytest.mark.parametrize("kind", DISTORTIONS)
@pytest.mark.parametrize("metric", ["psnr", "ssim", "ssim3d", "flicker", "rfvd"])
@pytest.mark.wide
def test_the_order_of_distortions_is_the_order_of_the_pairs_scores(
    report: SensitivityReport, metric: str, kind: str
) -> None:
    found = report.response(metric, kind)
    assert found.order == "worse" and found.verdict == "sees", (found.numbers, found.differences)


@pytest.mark.wide
@pytest.mark.parametrize("kind", DISTORTIONS)
@pytest.mark.parametrize("metric", ["fvd", "kvd"])
@pytest.mark.wide
def test_the_order_of_distortions_is_the_order_of_the_distances(
    distances: SensitivityReport, metric: str, kind: str
) -> None:
    found = distances.response(metric, kind)
    assert found.order == "worse" and found.verdict == "sees", (found.numbers, found.differences)


@pytest.mark.parametrize(
    ("metric", "kind"),
    [("warp", "noise"), ("warp", "shuffle"), ("detail", "blur"), ("detail", "noise"), ("dynamic_degree", "freeze"),
     ("temporal_flickering", "noise"), ("temporal_flickering", "shuffle"), ("motion_smoothness", "noise"),
     ("motion_smoothness", "shuffle")],
)  # fmt: skip
@pytest.mark.wide
def test_a_metric_sees_what_it_is_for(report: SensitivityReport, metric: str, kind: str) -> None:
    found = report.response(metric, kind)
    assert found.order == "worse" and found.verdict == "sees", (found.numbers, found.differences)


@pytest.mark.wide
def test_what_is_blind_and_what_is_misled_is_said(report: SensitivityReport) -> None:
    detail = report.response("detail", "shuffle")
    assert detail.verdict == "blind" and detail.order == "same", "the frames are the same ones"
    frozen = [report.response(metric, "freeze") for metric in ("temporal_flickering", "motion_smoothness")]
    assert all(f.numbers[-1] == 1 > f.numbers[0] for f in frozen), "nothing is as steady as a still picture"
    assert frozen[0].verdict == "misled" and frozen[1].verdict != "sees", "to stop at once is not smooth, to stand is"
    assert report.response("warp", "blur").verdict == "misled"
    assert not any(r.metric == "fvd_infinite" for r in report.responses)
    assert any("fvd_infinite is left out" in note for note in report.notes)


@pytest.mark.parametrize(
    ("good", "values", "differences", "expected"),
    [
        ("lower", [1, 2, 3, 4], [(0.5, 1.5), (1, 3), (2, 4)], "sees"),
        ("higher", [1, 2, 3, 4], [(0.5, 1.5), (1, 3), (2, 4)], "misled"),
        ("higher", [4, 3, 2, 1], [(-1.5, -0.5), (-3, -1), (-4, -2)], "sees"),
        ("lower", [1, 2, 3, 4], [(-1, 3), (-1, 5), (-1, 7)], "blind"),
        ("lower", [1, 1, 1, 1 + 1e-9], [(0, 0), (0, 0), (1e-10, 1e-9)], "blind"),
        ("lower", [1, 0.9, 3, 4], [(-1, 0.8), (1, 3), (2, 4)], "sees"),
        ("lower", [1, 0.9, 3, 4], [(-0.2, -0.05), (1, 3), (2, 4)], "unsteady"),
        ("lower", [1, 3, 2, 4], [(1, 3), (0.5, 1.5), (2, 4)], "unsteady"),
        ("lower", [1, 3, 4, 2], [(1, 3), (2, 4), (-1, 3)], "unsteady"),
        ("one", [1, 1.5, 2, 9], [(0.3, 0.7), (0.5, 1.5), (7, 9)], "sees"),
        ("one", [1, 0.9, 0.5, 0.1], [(-0.2, -0.05), (-0.6, -0.4), (-1, -0.8)], "sees"),
        ("one", [1, 1.5, 0.5, 0.1], [(0.3, 0.7), (-0.6, -0.4), (-1, -0.8)], "unsteady"),
    ],
)
def test_the_verdict(
    good: str, values: Sequence[float], differences: Sequence[tuple[float, float]], expected: Verdict
) -> None:
    assert judge(good, values, [interval(*d) for d in differences]) == expected


def test_without_an_interval_nothing_is_beyond_noise() -> None:
    assert judge("lower", [1, 2, 3, 4], [None, None, None]) == "blind"
    assert badness("higher", [1, 2]) == [-1, -2] and badness("one", [1, 0.5]) == [-0.0, 0.5]


def test_where_a_metric_begins_to_see() -> None:
    values = tuple(MetricValue(v, 8) for v in (1.0, 1.1, 2.0, 3.0))
    gaps = (interval(-1, 1.2), interval(0.5, 1.5), interval(1, 3))
    found = Response("fvd", "blur", (0.25, 0.5, 1.0), values, gaps)
    assert (found.seen_from, found.word, found.order, found.monotone) == (0.5, "sees 0.5", "worse", True)
    back = Response("fvd", "blur", (0.25, 0.5, 1.0), tuple(reversed(values)), (interval(-1, 1), *gaps[1:]))
    assert (back.order, back.monotone, back.verdict) == ("better", False, "misled")
    torn = Response("fvd", "blur", (0.25, 0.5, 1.0), (*values[:2], values[3], values[2]), gaps)
    assert (torn.order, torn.verdict, torn.seen_from, torn.word) == ("mixed", "unsteady", None, "unsteady")


def test_the_difference_of_two_values() -> None:
    a, b = MetricValue(5.0, 9, interval=interval(4, 7)), MetricValue(1.0, 9, interval=interval(0.5, 1.75))
    found = difference(a, b)
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(4 - 1.25), pytest.approx(4 + (4 + 0.25) ** 0.5))
    assert difference(a, MetricValue(1.0, 9)) is None


def test_common_noise_cancels_in_the_difference_of_frechet_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    real, made = (torch.randn(60, 4, generator=generator) for _ in range(2))
    shifted = ("blur", 1.0)
    found = frechet_differences(real, {PLAIN: made, shifted: made + 0.3}, 30)  # two features of each clip
    assert found[PLAIN].low == found[PLAIN].high == 0
    # |d + s|^2 - |d|^2 for the means' difference d and the shift s; the covariances stay
    gap = float(((made.mean(0) + 0.3 - real.mean(0)).square() - (made.mean(0) - real.mean(0)).square()).sum())
    assert (found[shifted].low + found[shifted].high) / 2 == pytest.approx(gap, rel=1e-4)


def test_a_stronger_distortion_is_more_of_the_weaker_one() -> None:
    video = torch.zeros(3, 3, 4, 16, 16)
    weak, strong = (distorted(video, ("noise", s), 0, 5) for s in (0.1, 0.2))
    assert_close(strong, 2 * weak)
    assert not torch.equal(weak[0], weak[1])
    assert torch.equal(distorted(video[1:], ("noise", 0.1), 0, 6), weak[1:]), "a clip's noise is its number's"
    assert distorted(video, PLAIN, 0, 0) is video


@pytest.mark.wide
def test_the_page_says_what_was_measured_and_needs_no_colour(report: SensitivityReport) -> None:
    page = report.markdown("kinolab evaluate sensitivity world --count 16")
    prose = " ".join(page.split())
    assert "kinolab evaluate sensitivity world --count 16" in page
    for protocol in report.protocols.values():
        assert f"`samples: {protocol.samples}`, hash `{protocol.hash()}`" in prose
    assert "16 clips of `world`, 9 frames of 32x32" in prose and "32 clips of `world`, half of them real" in prose
    assert "| psnr | higher | ✓ sees from 0.25 | ✓ sees from 0.25 | ✓ sees from 0.25 | ✓ sees from 0.25 |" in page
    assert "✗ misled" in page and "· blind" in page and "0.25, 0.5, 1" in page
    assert page.count("\n| psnr | ") == 1 + len(DISTORTIONS), "its verdicts, and its values by distortion"
    widths = {line.count("|") for line in page.splitlines() if line.startswith("| psnr | higher")}
    assert widths == {3 + len(DISTORTIONS)}


@pytest.mark.wide
def test_the_record_and_the_table_hold_every_answer(report: SensitivityReport) -> None:
    record = json.loads(report.to_json())
    assert len(record["responses"]) == len(report.metrics) * len(DISTORTIONS)
    assert {r["verdict"] for r in record["responses"]} <= {"sees", "blind", "misled", "unsteady"}
    first = record["responses"][0]
    assert first["metric"] == "psnr" and next(v["value"] for v in first["values"]) == 100
    assert record["protocols"]["generation"]["hash"] == report.protocols["generation"].hash()
    assert report.table().row_count == len(report.metrics)
    assert [line.split(":")[0] for line in report.lines()[:4]] == list(DISTORTIONS)


def test_too_few_clips_and_strengths_that_do_not_grow_are_one_line() -> None:
    pairs, sets = load_protocol("toy-reconstruction", PAIRS), load_protocol("toy-generation", QUALITY)
    with pytest.raises(InputError, match="toy-reconstruction asks for at least 16 clips here, got 15"):
        evaluate_sensitivity("world", pairs, sets, count=15)
    with pytest.raises(InputError, match=r"expected growing strengths above 0 and up to 1, got 0.5, 0.25"):
        evaluate_sensitivity("world", pairs, sets, strengths=(0.5, 0.25))


def test_the_command_writes_the_page_and_the_record(tmp_path: Path) -> None:
    few = ["size: 32", "frames: 5", "samples: 4", f"minimum: {HARD_MINIMUM}"]
    files = {"reconstruction": "metrics: [psnr]", "generation": "metrics: [temporal_flickering]"}
    for kind, metrics in files.items():
        lines = [f"name: {kind}", f"kind: {kind}", metrics, *few]
        (tmp_path / f"{kind}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    app = typer.Typer()
    evaluate.register(app)
    page, out = tmp_path / "page.md", tmp_path / "report.json"
    options = [x for kind in files for x in (f"--{kind}", str(tmp_path / f"{kind}.yaml"))]
    call = ["evaluate", "sensitivity", "world", "--count", "4", "--markdown", str(page), "--out", str(out), *options]
    result = CliRunner().invoke(app, call, catch_exceptions=False)
    assert result.exit_code == 0 and "which metric sees what" in result.output and "freeze: " in result.output
    text = page.read_text(encoding="utf-8")
    assert f"kinolab evaluate sensitivity world --count 4 --reconstruction {tmp_path}" in text
    assert {r["metric"] for r in json.loads(out.read_text())["responses"]} == {"psnr", "temporal_flickering"}
