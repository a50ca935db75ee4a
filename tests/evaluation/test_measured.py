"""What a protocol's metrics are shown, what is left out and why, and that shared scores share their work."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kinolab.errors import InputError, MissingExtraError
from kinolab.evaluation import measured as module
from kinolab.evaluation.measured import Measured
from kinolab.evaluation.protocol import Protocol
from kinolab.metrics.base import Shown

PAIRS = Protocol(name="p", kind="reconstruction", metrics=("seam", "grid", "psnr"), frames=5, size=16, minimum=2)


def clips(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, 5, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_metrics_stand_in_the_tables_order_with_what_comes_along() -> None:
    measured = Measured(PAIRS, spatial_ratio=4)
    assert list(measured.metrics) == ["psnr", "grid", "detail", "seam"] and measured.left == {}
    original, rebuilt = clips(), clips(1)
    measured.see(Shown(rebuilt, original, chunked=rebuilt, borders=(3,), whole=rebuilt), sets=False)
    assert set(measured.values([])) == {"psnr", "grid", "detail", "seam"}
    assert {len(scores) for scores in measured.per_clip().values()} == {2}


def test_what_can_not_be_shown_is_left_out_with_the_reason() -> None:
    measured = Measured(PAIRS, lacking={"grid": "nobody knows", "chunks": "nobody knows"})
    assert list(measured.metrics) == ["psnr"], "and detail does not come along with a grid that is not there"
    assert measured.left == {"grid": "nobody knows", "seam": "nobody knows"}
    small = Measured(PAIRS, spatial_ratio=8)
    assert "spatial ratio 8" in small.left["grid"] and "detail" in small.metrics
    small.see(Shown(clips(), clips()), sets=False)
    assert small.unseen() == ["seam"] and "seam" not in small.values([])


def test_a_score_that_can_not_be_given_is_a_note() -> None:
    notes: list[str] = []
    assert Measured(PAIRS, spatial_ratio=4).values(notes) == {}
    assert len(notes) == 3 and all(note.startswith("left out: ") for note in notes)


def test_scores_of_one_class_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from kinolab.metrics.extractors.encoder import VideoEncoder, VideoEncoderConfig, VideoEncoderExtractor
    from kinolab.metrics.manifold import ManifoldMetrics

    network = VideoEncoder(VideoEncoderConfig(widths=(8,), embedding=4, size=16))
    sets = PAIRS.model_copy(update={"kind": "generation", "metrics": ("coverage", "precision")})
    measured = Measured(sets, {"video": VideoEncoderExtractor(network, "0" * 64)})
    assert measured.metrics["coverage"] is measured.metrics["precision"] and measured.wants("sets")
    calls: list[int] = []
    compute = ManifoldMetrics.compute

    def counted(self: ManifoldMetrics) -> Any:
        calls.append(1)
        return compute(self)

    monkeypatch.setattr(ManifoldMetrics, "compute", counted)
    features = torch.rand(30, 4, generator=torch.Generator().manual_seed(0))
    measured.see(Shown(features={"video": features}, real_features={"video": features + 0.1}), sets=True)
    assert set(measured.values([])) == {"precision", "coverage"} and calls == [1]


def test_captions_and_libraries_are_asked_for_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MissingExtraError("opencv-python-headless", "eval", "optical flow")

    monkeypatch.setattr(module, "need_flow", missing)
    Measured(PAIRS, spatial_ratio=4)
    with pytest.raises(InputError, match="opencv"):
        Measured(PAIRS.model_copy(update={"metrics": ("warp",)}))
