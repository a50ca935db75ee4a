"""Both few-step methods reach their teacher's distribution where it is known: two modes (`tests/two_modes.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kinolab.diffusion import DiffusionConfig, SamplerConfig
from kinolab.training.jobs.consistency import ConsistencyJob
from kinolab.training.jobs.matching import MatchingJob
from tests.two_modes import Judged, two_modes

PATHS = {
    "flow": DiffusionConfig(schedule="flow", prediction="flow"),
    "discrete": DiffusionConfig(schedule="cosine", prediction="v", zero_terminal_snr=True),
}
LONG: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "consistency": (ConsistencyJob, {"steps": 3000, "learning_rate": 4e-3, "ema": 0.95}, {"solver_steps": 24}),
    "matching": (MatchingJob, {"steps": 3000, "learning_rate": 4e-3, "ema": 0.99}, {}),
}


def distilled(method: str, path: str, folder: Path, **training: Any) -> tuple[Judged, Judged]:
    """The student's samples by 4 steps of its own sampler, and those of what it began as."""
    kind, usual, fields = LONG[method]
    sampler = SamplerConfig(name="consistency", steps=4)
    with two_modes(folder, PATHS[path]) as world:
        first = world.judged(world.teacher, sampler, count=2048, draws=4)
        job = world.job(kind, {"decay": "cosine", **usual, **training}, **fields)
        trainer = world.train(job, folder / "run")
        with trainer._averages(), torch.no_grad():
            return world.judged(job.network, sampler), first


@pytest.mark.slow
@pytest.mark.parametrize("method", LONG)
def test_a_short_training_goes_most_of_the_way(method: str, tmp_path: Path) -> None:
    found, first = distilled(method, "flow", tmp_path, steps=250)
    assert found.distance < 0.5 * first.distance


@pytest.mark.wide()
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", LONG)
def test_a_student_samples_what_its_teacher_does(method: str, path: str, tmp_path: Path) -> None:
    """Within the interval of two draws of the teacher, and the modes' weights within 2%; what it began as is not."""
    found, first = distilled(method, path, tmp_path)
    found.check()
    with pytest.raises(AssertionError):
        first.check()
