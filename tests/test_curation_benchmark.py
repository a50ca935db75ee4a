"""The figures of docs/curation.md: how they are counted, on clips that are made up; and once by way of files."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import curation, spoilt
from benchmarks.curation import KEEP, Clip, cuts, gaps, thresholds
from kinolab.data.curate.cuts import Cuts
from kinolab.data.curate.frames import Part

PASSING: dict[str, float | None] = {
    score: limit * (2 if side == "min" else 0.5) for score, side, limit in KEEP.values()
}


def clip(wrong: str, **scores: float) -> Clip:
    return Clip(spoilt.Spoilt(np.zeros((1, 1, 1, 3), np.uint8), wrong), {}, {**PASSING, **scores}, 3.0)


def test_precision_recall_and_order_of_a_threshold() -> None:
    clips = [clip("still", motion=0.0), clip("still", motion=0.1), clip("fine"), clip("dark", motion=0.0001)]
    clips += [clip(wrong) for wrong in KEEP if wrong not in ("still", "dark")]
    row = next(row for row in thresholds(clips) if row["wrong"] == "still")
    assert (row["precision"], row["recall"], row["clips"], row["others"]) == (0.5, 0.5, 2, len(KEEP))
    assert row["auc"] == pytest.approx(0.5) and row["false"] == {"dark": 1} and row["threshold"] == "< 0.0005"


def test_cuts_are_counted_by_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gaps([Part(0, 1), Part(1.5, 3)], 3.0) == [(12, 18)] and gaps([Part(0, 2)], 3.0) == [(24, 36)]
    found = {"cut": [Part(0, 1), Part(1, 3)], "fine": [Part(0, 3)], "dissolve": [Part(0, 1), Part(2, 3)]}
    truth = {"cut": ((13, 13),), "fine": (), "dissolve": ((30, 33),)}
    clips = [
        Clip(spoilt.Spoilt(np.zeros((1, 1, 1, 3), np.uint8), kind, truth[kind]), {"cuts": {"kind": kind}}, {}, 3.0)  # type: ignore[dict-item]
        for kind in found
    ]
    monkeypatch.setattr(Cuts, "parts", lambda self, trace, end: found[trace["kind"]])
    hard, slow = cuts(clips, Cuts())
    assert (hard["precision"], hard["recall"]) == (1, 1), "a frame off is near enough"
    assert (slow["precision"], slow["recall"], slow["false"]) == (0, 0, {"dissolve": 1})


@pytest.mark.wide()
def test_clips_with_one_thing_wrong_are_told_by_the_thresholds_of_the_page() -> None:
    rows = curation.measure(2, 40, {})
    assert [row["wrong"] for row in rows] == ["cut", "dissolve", *KEEP, "duplicate"]
    by = {row["wrong"]: row for row in rows}
    assert by["shaken"]["recall"] == by["bars"]["recall"] == by["blurred"]["recall"] == 1
    assert all(row["auc"] is None or row["auc"] > 0.9 for row in rows)
