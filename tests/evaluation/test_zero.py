"""The evaluation of clips by an image model: read from drawn clips that do what is asked, or something else."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from kinolab.errors import InputError
from kinolab.evaluation.zero import ALONE, ZeroClip, ZeroReport, evaluate_zero, judge, summary_lines
from kinolab.metrics import METRICS
from kinolab.toyworld.words import COLOURS
from tests.closeness import assert_within
from tests.engines.inside import Sent
from tests.tiny_model import tiny_image_model, tiny_model

BACKGROUND = (238, 239, 241)
ASKED = (("red", "box"),)


def clip(*paths: tuple[str, list[float]], frames: int = 6, side: int = 64, half: int = 6) -> np.ndarray:
    """Boxes (T, side, side, 3) of colours, whose centres stand at row 30 and at these columns."""
    made = np.empty((frames, side, side, 3), np.uint8)
    made[:] = BACKGROUND
    for colour, columns in paths:
        for frame, x in enumerate(columns):
            made[frame, 30 - half : 30 + half, round(x) - half : round(x) + half] = COLOURS[colour]
    return made


def steps(start: float, step: float, frames: int = 6) -> list[float]:
    return [start + k * step for k in range(frames)]


def test_a_clip_that_moves_as_asked_keeps_all_and_errs_by_nothing() -> None:
    found = judge(clip(("red", steps(12, 4))), (4.0, 0.0), ASKED)
    assert found["frames"] == 6 and all(found["asked"].values()) and all(found["kept"].values())
    assert_within(np.array(found["errors"]), np.zeros(5), 0.2, "px")
    assert found["found"] == 1.0
    double = judge(clip(("red", steps(24, 8)), side=128, half=12), (4.0, 0.0), ASKED)
    assert_within(np.array(double["errors"]), np.zeros(5), 0.2, "px of 64")


def test_one_that_stands_still_errs_by_the_motion() -> None:
    found = judge(clip(("red", steps(12, 0))), (4.0, 0.0), ASKED)
    assert found["kept"]["kept"]
    assert_within(np.array(found["errors"]), 4.0 * np.arange(1, 6), 0.2, "px")


@pytest.mark.parametrize(
    ("paths", "lost"),
    [
        ([("red", steps(12, 4)[:3]), ("blue", [-99, -99, -99, *steps(12, 4)[3:]])], "kept_colours"),
        ([("red", [12, 40, 20, 48, 28, 10])], "kept_identity"),
    ],
)
def test_what_is_lost_is_named(paths: list[Any], lost: str) -> None:
    drawn = [(colour, [x for x in columns if x > 0]) for colour, columns in paths]
    frames = clip(("red", steps(12, 4)) if lost == "kept_colours" else drawn[0])
    if lost == "kept_colours":
        frames[3:] = clip(("blue", steps(12, 4)))[3:]
    found = judge(frames, (4.0, 0.0), ASKED)
    assert found["kept"][lost] is False and found["kept"]["kept"] is False
    assert found["asked"]["asked_colours"] is True, "the first frame is as asked"


def test_two_of_a_colour_are_told_apart_by_where_they_begin() -> None:
    frames = clip(("red", steps(12, 3)))
    frames[:, 44:60] = clip(("red", steps(40, 3)), half=8)[:, 22:38]
    found = judge(frames, (3.0, 0.0), ASKED)
    assert found["asked"]["asked_count"] is False and found["kept"]["kept"]
    assert_within(np.array(found["errors"]), np.zeros(len(found["errors"])), 0.3, "px")


def test_frames_count_as_far_as_the_motion_leaves_objects_whole() -> None:
    found = judge(clip(("red", steps(44, 4, 4)), frames=4), (4.0, 0.0), ASKED)
    assert found["frames"] == 4 and len(found["errors"]) == 3
    near = judge(clip(("red", steps(50, 4, 6))), (4.0, 0.0), ASKED)
    assert near["frames"] == 3
    gone = judge(clip(("red", steps(57, 4, 6))), (4.0, 0.0), ASKED)
    assert gone["frames"] == 1 and gone["kept"]["kept"] is None and gone["errors"] == ()
    empty = judge(clip(), (4.0, 0.0), ASKED)
    assert empty["frames"] == 0 and empty["asked"]["asked_count"] is False


@pytest.mark.slow
def test_a_report_of_a_tiny_model_has_a_row_for_every_motion() -> None:
    model = tiny_image_model()
    told: list[tuple[int, int]] = []
    protocol = {"count": 3, "frames": 3, "motions": [[4, 0], [0, 2]]}
    sampling = {"methods": {"text2video_zero": {"t0": 0.5, "t1": 0.7}}}
    report = evaluate_zero(model, protocol, batch=2, sampling=sampling, events=lambda d, t: told.append((d, t)))
    assert report.settings == ["4, 0 nearest", "4, 0 bilinear", "0, 2 nearest", "0, 2 bilinear", ALONE]
    assert [r.noise_seed for r in report.results] == [0, 1, 2] * 5
    assert [r.motion for r in report.results[:3]] == [(4.0, 0.0), (-4.0, 0.0), (4.0, 0.0)], "odd clips go back"
    firsts = [r.asked for r in report.results[:3]]
    assert [r.asked for r in report.results[6:9]] == firsts, "the first frames are the same with every motion"
    assert told[-1][0] == told[-1][1] and told == sorted(told)
    assert report.protocol["half_latent"] == 4.0, "ratio 4 at 32 px is 8 of 64"
    together = evaluate_zero(model, protocol, batch=2, sampling=sampling, engine=Sent())
    assert together.to_json() == report.to_json(), "by workers"
    record = json.loads(report.to_json())
    assert record["kind"] == "zero" and len(record["clips"]) == 15 and record["protocol"]["methods"]["text2video_zero"]
    assert all(name in METRICS for name in record["metrics"])
    assert report.table().row_count == 5 and summary_lines(report)


def test_scores_are_shares_and_means_of_the_clips_that_are_judged() -> None:
    def of(setting: str, kept: bool | None, errors: tuple[float, ...]) -> ZeroClip:
        names = ("kept_colours", "kept_shapes", "kept_identity", "kept")
        asked = dict.fromkeys(("asked_colours", "asked_shapes", "asked_count"), True)
        return ZeroClip(setting, (4, 0), "a", 1, 1, asked, dict.fromkeys(names, kept), len(errors) + 1, errors, 1.0)

    rows = (of("a", True, (1.0, 3.0)), of("a", False, (5.0,)), of("a", None, ()), of(ALONE, False, (9.0,)))
    made = {"model": "m", "model_sha256": "", "count": 3, "frames": 3, "half_latent": 2.0}
    report = ZeroReport(made, rows).scores()
    values = {name: (score.value, score.count) for name, score in report.metrics.items()}
    assert values["kept"] == (0.5, 2) and values["position_error"] == (3.0, 2)
    assert values["within_half_latent"] == (0.5, 2)
    assert set(report.groups[ALONE]) == {"asked_colours", "asked_shapes", "asked_count", "kept_colours", "kept_shapes",
                                         "kept_identity", "kept"}  # fmt: skip
    assert report.details["by_frame"]["a"] == [3.0, 3.0]


def test_what_cannot_be_measured_is_said() -> None:
    with pytest.raises(InputError, match="expected a batch of at least 1"):
        evaluate_zero(tiny_image_model(), batch=0)
    with pytest.raises(InputError, match="Latte models time itself"):
        evaluate_zero(tiny_model(), {"count": 1, "frames": 5})
