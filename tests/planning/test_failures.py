"""Failures on paper: formulas against each other and against runs that are played, and what a scale costs."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import pytest

from kinolab.cli import main
from kinolab.cli.plan import AT_SCALE
from kinolab.errors import InputError
from kinolab.planning import cost
from kinolab.planning.failures import (
    Played,
    Steps,
    Weather,
    daly,
    expected_seconds,
    play,
    slowest_factor,
    young,
)
from kinolab.planning.scale import Assumed, Measured, ScaleReport, scale

STORM = Weather(between=3600.0, restart=120.0, save=20.0, write=20.0)
SMALL = Measured("small", rate=10.0, device="cuda", batch=2048, parameters=10**9, state=16 * 10**9, clip_bytes=1e5)


def added_up(played: Played) -> float:
    return played.kept + played.lost + played.saving + played.restarting


def test_dalys_interval_is_where_his_expected_time_is_least() -> None:
    best = daly(STORM)
    around = [expected_seconds(1e6, best * factor, STORM) for factor in (0.8, 0.95, 1.0, 1.05, 1.25)]
    assert min(around) == around[2] and young(STORM) == math.sqrt(2 * 20 * 3600) and best < young(STORM)
    assert daly(Weather(100.0, 0.0, 300.0)) == 100.0  # a checkpoint takes longer than anything lives


def test_without_failures_a_run_takes_its_steps_and_its_checkpoints() -> None:
    calm = Weather(math.inf, 120.0, 20.0)
    played = play(Steps(100, 3.0), 10, calm, 0)
    assert played == Played(500.0, 300.0, 0.0, 200.0, 0.0, 0)
    assert expected_seconds(300.0, 30.0, calm) == pytest.approx(500.0)


@pytest.mark.slow
@pytest.mark.parametrize("every", [2, 6, 24])
def test_runs_that_are_played_take_what_dalys_formula_says(every: int) -> None:
    """600 runs of 24 hours of work each: within 1% of the expectation, whose standard error is below 0.4%."""
    steps = Steps(480, 180.0)
    runs = [play(steps, every, STORM, seed) for seed in range(600)]
    expected = expected_seconds(480 * 180.0, every * 180.0, STORM)
    assert fmean(r.seconds for r in runs) == pytest.approx(expected, rel=0.01)
    assert all(added_up(r) == pytest.approx(r.seconds) for r in runs[:20])
    assert sum(r.failures for r in runs) / sum(r.seconds for r in runs) == pytest.approx(1 / 3600, rel=0.02)


def test_writing_beside_the_steps_costs_no_time_but_more_steps_when_it_fails() -> None:
    beside = Weather(3600.0, 120.0, 1.0, 400.0)
    quick = Weather(3600.0, 120.0, 1.0, 1.0)
    lost = [fmean(play(Steps(2000, 18.0), 30, w, seed).lost for seed in range(100)) for w in (beside, quick)]
    failures = fmean(play(Steps(2000, 18.0), 30, beside, seed).failures for seed in range(100))
    # Each failure also loses what was done while the newest checkpoint was still being written.
    assert lost[0] - lost[1] == pytest.approx(400 * failures, rel=0.15)


def test_a_run_with_known_failures_by_hand() -> None:
    """10 steps of 1 s, saved every 4 for 2 s; it fails after 5.5 s in the saving of step 4, again while it restarts,
    and in step 7."""
    played = play(Steps(10, 1.0), 4, Weather(1.0, 3.0, 2.0, 2.0), 0, gaps=iter([5.5, 1.0, 11.5]))
    # Lost: 4 steps and 1.5 s of saving. On at 5.5 + 1 + 3 = 9.5: steps 1 to 4, saved at 15.5, steps 5, 6 and half of 7.
    assert (played.failures, played.lost, played.restarting) == (3, 5.5 + 2.5, 1.0 + 3.0 + 3.0)
    # It goes on at 18 + 3 = 21 with steps 5 to 8, saves, and ends with steps 9 and 10 and the last checkpoint.
    assert (played.kept, played.saving, played.seconds) == (10.0, 6.0, 21.0 + 4 + 2 + 2 + 2)


def test_a_run_whose_steps_and_restarts_are_known_by_hand() -> None:
    steps = Steps(4, 1.5, each=(1.0, 1.0, 2.0, 2.0))
    played = play(steps, 2, Weather(1.0, 3.0, 0.0), 0, gaps=iter([4.5, 1.0, 99.0]), restarts=iter([7.0, 5.0]))
    # In step 4, and once more 1 s later; on at 5.5 + 5 = 10.5 with steps 3 and 4.
    assert (played.lost, played.restarting, played.seconds, played.straggling) == (2.5, 6.0, 14.5, 0.0)
    with pytest.raises(InputError, match="expected the seconds of 5 steps, got 4"):
        Steps(5, 1.0, each=steps.each)


def test_a_step_waits_for_its_slowest_process() -> None:
    assert slowest_factor(1, 0.1) == 1.0 and slowest_factor(256, 0.0) == 1.0
    runs = [play(Steps(2000, 1.0, 0.05, 256), 2000, Weather(math.inf, 0.0, 0.0), seed) for seed in range(3)]
    assert fmean(r.kept for r in runs) / 2000 == pytest.approx(slowest_factor(256, 0.05), rel=5e-3)
    assert all(r.straggling == pytest.approx(r.kept - 2000) for r in runs)
    many = play(Steps(9, 1.0, 0.05, 10**18), 9, Weather(math.inf, 0.0, 0.0), 1)
    assert many.straggling > 0  # though the share of its slowest rounds to 1


def test_a_training_on_256_accelerators() -> None:
    report = scale(SMALL, Assumed(clips=10e6, gpus=256, price=2.0))
    assert report.steps == 4883 and report.compute == pytest.approx(0.8 * slowest_factor(256, 0.01))
    assert report.exchange == pytest.approx(0.5 * 2 * 255 / 256 * 4e9 * 1.5 / 25e9)
    assert report.weather.between == pytest.approx(Assumed(1, 1).between * 3600 / 256)
    assert report.stored == 1e12 and report.egress >= 1e12
    low, middle, high = report.played
    assert low <= middle <= high and middle == pytest.approx(report.expected, rel=0.05)
    costs = report.costs()
    assert costs is not None and costs["accelerators"] == pytest.approx(2 * 256 * middle / 3600)
    assert sum(v for k, v in costs.items() if k != "all") == pytest.approx(costs["all"])


def test_more_failures_cost_more_and_are_saved_against_more_often() -> None:
    made: list[ScaleReport] = []
    for between in (50_000.0, 500.0):
        made.append(scale(SMALL, Assumed(clips=1e7, gpus=512, epochs=20, between=between)))
    assert made[1].interval < made[0].interval / 5 and made[1].played[1] > 1.1 * made[0].played[1]
    beside = scale(SMALL, Assumed(clips=1e7, gpus=512, epochs=20, between=500.0, bandwidth=0.1, beside=True, pause=1.0))
    waits = scale(SMALL, Assumed(clips=1e7, gpus=512, epochs=20, between=500.0, bandwidth=0.1))
    assert beside.weather.save == 1.0 and beside.played[1] < waits.played[1]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"gpus": 4096}, "needs one: give -s training.batch_size=N of at least 4096"),
        ({"between": 0.01}, "such a run does not end"), ({"clips": math.inf}, "expected clips above 0, got inf"),
        ({"epochs": 0.0}, "expected epochs above 0"), ({"overlap": 2.0}, "an overlap from 0 to 1"),
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_one_line(given: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        scale(SMALL, Assumed(**{"clips": 1e6, "gpus": 256, **given}))


class _Told:
    """A report of `kinolab plan` without the plan."""

    phases: ClassVar[Any] = (type("Phase", (), {"step": (0.9, 1.0, 1.1)})(),)
    protocol: ClassVar[Any] = {"name": "small", "device": "cpu", "batch_size": 8}
    parameters: ClassVar[Any] = {"denoiser": 10**9}
    saving = type("Once", (), {"bytes": 16 * 10**9})()
    notes = ()

    def lines(self) -> list[str]:
        return ["3 timed steps"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "measure_cost", lambda *args, **given: _Told())
    words = [
        "plan",
        "--scale",
        "toy-latte",
        "--clips",
        "10e6",
        "--gpus",
        "256",
        "--price",
        "2",
        "--clip-bytes",
        "1e5",
        "--bandwidth",
        "20",
        "-s",
        "training.batch_size=512",
    ]
    out = tmp_path / "scale.json"
    with pytest.raises(SystemExit) as ended:
        main([*words, "--currency", "USD", "--out", str(out)])
    printed = capsys.readouterr().out
    assert ended.value.code == 0 and all(w in printed for w in ("egress", "Daly's optimum", "accelerator hours", "USD"))
    values = json.loads(out.read_text())
    assert values["measured"]["rate"] == 8.0 and values["assumed"]["gpus"] == 256 and values["costs"]["all"] > 0
    assert values["weather"]["write"] == pytest.approx(16e9 / 20e9)
    assert {f.name for f in fields(Assumed)} == {*AT_SCALE, "price", "overlap", "pause"}
    for wrong, text in ((["--clips", "10"], "--clips goes with --scale"), (["--scale"], "expected --clips and --gpus")):
        with pytest.raises(SystemExit) as ended:
            main(["plan", "toy-latte", *wrong])
        assert ended.value.code == 2 and text in capsys.readouterr().err
