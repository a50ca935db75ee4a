"""The physics evaluation, on models that know the answer and on one that knows nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from kinolab.errors import InputError
from kinolab.evaluation.physics import SUBJECTS, evaluate_physics, summary_lines
from kinolab.methods import GuidanceConfig
from kinolab.models import VideoModel
from tests.engines.inside import Inside
from tests.evaluation.conftest import TinyConfig
from tests.evaluation.test_evaluate_world import Oracle


class Seer(Oracle):
    """Sees the whole clip; makes the frames after the given ones `late` frames late."""

    late = 0

    def complete(self, video: torch.Tensor, mask: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        given = int((mask[0, 0, :, 0, 0] == 0).sum())
        frames = [t if t < given else max(given - 1, t - self.late) for t in range(video.shape[2])]
        return video[:, :, frames]


Make = Callable[[int], VideoModel]


@pytest.fixture
def seer(tiny_config: TinyConfig) -> Make:
    def make(late: int) -> VideoModel:
        model = Seer(tiny_config())
        model.late = late
        return model

    return make


@pytest.mark.slow
def test_the_truth_has_no_error_and_standing_still_has_that_of_the_baseline(seer: Make) -> None:
    report = evaluate_physics(seer(0), {"given": [8, 1], "count": 6}, batch=3)
    assert report.error("model", 8) < 0.25 and report.mean("model", 8, "identity") == 1
    assert report.mean("model", 8, "timing") < 0.35 and report.mean("model", 8, "energy") < 0.1
    assert report.mean("model", 8, "at_place") == 1 and report.mean("model", 8, "own_colour") == 1
    assert report.mean("model", 8, "place_error") < 0.25 and report.mean("model", 8, "colour_error") < 0.25
    assert math.isnan(report.mean("copy last", 8, "at_place")), "a baseline has no pixels"
    still = evaluate_physics(seer(100), {"given": [8], "count": 6}, batch=6)
    assert still.mean("model", 8, "at_place") < 1 and still.mean("model", 8, "own_colour") > 0.9
    assert still.error("model", 8) == pytest.approx(still.error("copy last", 8), abs=0.25)
    assert still.error("copy last", 8) > 3 and still.mean("model", 8, "momentum") > 0.3
    for ahead in (1, 4, 8):
        assert still.error("copy last", 8, ahead) == report.error("copy last", 8, ahead), "the same clips"
    late = evaluate_physics(seer(2), {"given": [8], "count": 6}, batch=6)
    assert report.error("model", 8) < late.error("model", 8) < still.error("model", 8)


@pytest.mark.slow
def test_the_baselines_are_what_they_say(seer: Make) -> None:
    report = evaluate_physics(seer(0), {"given": [8, 1], "count": 6, "scenarios": ["float"]})
    assert report.error("constant velocity", 8) < 0.3, "nothing changes its velocity where nothing acts"
    assert math.isnan(report.error("constant velocity", 1)), "one frame tells no velocity"
    falls = evaluate_physics(seer(0), {"given": [4], "count": 4, "scenarios": ["throw"]})
    assert falls.error("constant velocity", 4, 1) < falls.error("constant velocity", 4, 8)


@pytest.mark.slow
def test_the_report_is_whole_and_json(seer: Make) -> None:
    report = evaluate_physics(seer(0), {"given": [4], "count": 7}, batch=4)
    assert evaluate_physics(seer(0), {"given": [4], "count": 7}, batch=4, engine=Inside()).to_json() == report.to_json()
    record = json.loads(report.to_json())
    assert set(record["means"]["4"]) == set(SUBJECTS) and len(record["clips"]) == 7 * len(SUBJECTS)
    assert list(report.scenarios) == ["fall", "throw", "bounce", "collide", "ramp", "float"]
    assert (
        report.table().row_count == 4
        and report.matching_table().row_count == 2
        and report.scenario_table().row_count == 4
    )
    assert any("given frames only" in line for line in summary_lines(report))
    assert np.isfinite(record["means"]["4"]["model"]["error_first_8"])


TOWARDS = GuidanceConfig(scales=(("given", 2.0),))


@pytest.mark.parametrize(
    ("own", "asked", "takes", "found"),
    [
        (1.0, {}, True, GuidanceConfig()),
        (1.0, {"scales": {"given": 2.0}}, True, TOWARDS),
        (2.0, {}, True, TOWARDS),
        (3.0, {"scales": {"given": 2.0}}, True, TOWARDS),
        (2.0, {"scale": 1.0}, True, GuidanceConfig()),
        (2.0, {"scale": 5.0}, True, GuidanceConfig()),
        (2.0, {}, False, GuidanceConfig()),
    ],
)
def test_what_is_given_can_be_guided_by_where_a_prompt_cannot(
    own: float, asked: dict[str, Any], takes: bool, found: GuidanceConfig, seer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, complete, told = seer(0), Seer.complete, list[Any]()

    def watched(self: Seer, *args: Any, guidance: Any = None, **kwargs: Any) -> torch.Tensor:
        told.append(guidance)
        return complete(self, *args, **kwargs)

    monkeypatch.setattr(Seer, "complete", watched)
    model.denoiser.spec = replace(model.denoiser.spec, given="channels" if takes else "none")
    model.config = model.config.model_copy(update={"guidance": GuidanceConfig(scale=4.0), "given_guidance": own})
    report = evaluate_physics(model, {"given": [8], "count": 1}, sampling={"guidance": asked})
    assert told == [found] and ("guidance" in report.protocol) == found.active


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"given": [17]}, "1 to 16"),
        ({"given": []}, "given: .* at least 1 item"),
        ({"count": 0}, "count: .* equal to 1"),
        ({"scenarios": ["explode"]}, "explode: expected some of"),
    ],
)
def test_bad_requests_are_refused(options: dict[str, Any], message: str, seer: Make) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_physics(seer(0), options)
