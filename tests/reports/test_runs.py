"""A run folder becomes curves, samples in order of steps, and its recipe."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kinolab import video
from kinolab.errors import InputError
from kinolab.reports import Curves, Fold, Media, SyncedVideos, curves_of_run
from kinolab.reports.runs import charts, run_comparison, run_section
from kinolab.training.log import RunLog


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 20 steps, written by the trainer's own log, with samples at 8 steps."""
    folder = tmp_path / "my-run"
    (folder / "samples").mkdir(parents=True)
    log = RunLog(folder, 0, tensorboard=False)
    for step in (10, 20):
        log.write(step, "train", {"loss": 1 / step, "mse": 1 / step, "step_seconds": 0.5, "learning_rate": 1e-4})
        log.write(step, "heldout", {"loss": 2 / step, "loss_at_0.1": 3 / step, "loss_at_0.9": 1 / step})
    log.write(20, "event", {"what": "words are no curve"})
    log.close()
    (folder / "recipe.yaml").write_text("kind: denoiser\n")
    for step in range(1, 9):
        for k in range(2):
            video.write(folder / "samples" / f"step-{step:08d}-{k}.mp4", np.zeros((step, 16, 16, 3), np.uint8), 8.0)
    return folder


def test_every_number_is_a_curve_by_step(run: Path) -> None:
    series = curves_of_run(run)
    assert series["train loss"] == [(10, 0.1), (20, 0.05)]
    assert series["heldout loss_at_0.9"] == [(10, 0.1), (20, 0.05)]
    assert set(series) == {
        "train loss", "train mse", "train step_seconds", "train learning_rate", "heldout loss", "heldout loss_at_0.1",
        "heldout loss_at_0.9",
    }  # fmt: skip
    assert curves_of_run(run / "log.jsonl") == series


def test_a_line_that_is_being_written_is_left_out_and_a_wrong_one_named(run: Path, tmp_path: Path) -> None:
    log = run / "log.jsonl"
    whole = log.read_text()
    before = curves_of_run(run)
    log.write_text(whole + '{"step": 30, "kind": "tr')
    assert curves_of_run(run) == before
    log.write_text('{"steps": 1}\n' + whole)
    with pytest.raises(InputError, match=r"log\.jsonl, line 1: expected"):
        curves_of_run(run)
    with pytest.raises(InputError, match="no such file"):
        curves_of_run(tmp_path)


def test_training_and_held_out_values_share_a_plot_and_what_is_equal_is_drawn_once(run: Path) -> None:
    plots = charts(curves_of_run(run))
    assert list(plots["loss"].series) == ["training", "held out"]
    assert list(plots["loss by noise level"].series) == ["loss at 0.1", "loss at 0.9"]
    assert "mse" not in plots, "the same numbers as the training loss"
    steep = charts({"train loss": [(0, 1.0), (1, 0.001)]})["loss"]
    assert steep.log and not plots["loss"].log


def test_the_section_shows_each_sample_at_steps_in_order(run: Path) -> None:
    media = Media()
    section = run_section(run, "my run", media)
    first, second = (b for b in section.blocks if isinstance(b, SyncedVideos))
    assert first.title.startswith("sample 0") and second.title.startswith("sample 1")
    captions = [caption for caption, _ in first.videos]
    assert captions == ["step 1", "step 2", "step 4", "step 5", "step 7", "step 8"], "evenly, the last one among them"
    assert (first.fps, first.frames) == (8.0, 8) and "6 of 8 steps" in first.title
    assert first.videos[0][1] == "media/my-run-samples/step-00000001-0.mp4"
    folds = [b for b in section.blocks if isinstance(b, Fold)]
    assert [f.title for f in folds] == ["curves of the training itself", "recipe"]
    assert "20 steps" in section.text


def test_runs_stand_in_one_plot_by_what_is_held_out(run: Path) -> None:
    series = curves_of_run(run)
    section = run_comparison({"a": series, "b": {"heldout loss": [(10, 0.5)]}})
    plots = [b for b in section.blocks if isinstance(b, Curves)]
    assert [p.title for p in plots] == ["loss, held out"] and list(plots[0].series) == ["a", "b"]
    trained = run_comparison({"a": {"train loss": [(1, 2.0)]}, "b": {"train loss": [(1, 3.0)]}})
    assert isinstance(trained.blocks[0], Curves) and trained.blocks[0].title == "loss, training"


def test_a_run_that_has_logged_nothing_is_shown(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(json.dumps({"kind": "denoiser"}))
    section = run_section(tmp_path, "new", Media())
    assert section.text == "Nothing is logged yet." and len(section.blocks) == 1
