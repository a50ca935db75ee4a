"""The methods of few steps reach their teacher's distribution where it is known: two modes (`tests/two_modes.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kinolab.diffusion import DiffusionConfig, SamplerConfig
from kinolab.runtime.ranks import Ranks
from kinolab.training.jobs.consistency import ConsistencyJob
from kinolab.training.jobs.matching import MatchingJob
from kinolab.training.jobs.self_forcing import SelfForcingJob
from tests.two_modes import Judged, as_points, two_modes

PATHS = {
    "flow": DiffusionConfig(schedule="flow", prediction="flow"),
    "discrete": DiffusionConfig(schedule="cosine", prediction="v", zero_terminal_snr=True),
}
LONG: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "consistency": (ConsistencyJob, {"steps": 3000, "learning_rate": 4e-3, "ema": 0.95}, {"solver_steps": 24}),
    # Its gradient is the slower one: the student needs thousands of updates, each after two of a critic, which has no
    # momentum, as old samples of the student say nothing.
    "matching": (
        MatchingJob,
        {"steps": 8000, "learning_rate": 6e-3, "ema": 0.99, "betas": [0.0, 0.99]},
        {"critic_updates": 2},
    ),
}


def distilled(method: str, path: str, folder: Path, steps: int = 4, training: Any = None) -> tuple[Judged, Judged]:
    """The student's samples by so many steps of its own sampler, and those of what it began as."""
    kind, usual, fields = LONG[method]
    sampler = SamplerConfig(name="consistency", steps=steps)
    with two_modes(folder, PATHS[path]) as world:
        few: dict[str, Any] = {"count": 2048, "draws": 4}
        first = world.judged(world.teacher, sampler, **few)
        job = world.job(kind, {"decay": "cosine", **usual, **(training or {})}, **fields)
        trainer = world.train(job, folder / "run")
        with trainer._averages(), torch.no_grad():
            return world.judged(job.network, sampler, **(few if training else {})), first


@pytest.mark.slow
def test_a_short_training_goes_a_good_part_of_the_way(tmp_path: Path) -> None:
    """In one step, in which the teacher's estimate is the mean of both modes. Distribution matching takes longer than
    this; its gradient moves a Gaussian onto another in tests/diffusion/test_matching.py."""
    found, first = distilled("consistency", "flow", tmp_path, steps=1, training={"steps": 250})
    assert found.distance < 0.7 * first.distance


@pytest.mark.wide()
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", LONG)
def test_a_student_samples_what_its_teacher_does(method: str, path: str, tmp_path: Path) -> None:
    """Within the interval of two draws of the teacher, and the modes' weights within 2%; what it began as is not."""
    found, first = distilled(method, path, tmp_path)
    found.check()
    with pytest.raises(AssertionError):
        first.check()


def rolled(job: SelfForcingJob, calls: int = 4) -> torch.Tensor:
    """Clips' points (N, C * T) that a causal student makes frame by frame from its own past."""
    [micro] = next(job.batches(0, Ranks()))
    batches = [job.assembly.batch(micro, 10**6 + k) for k in range(calls)]  # noise that no step of training drew
    last, network = job.recipe.steps - 1, job.network.eval()
    with torch.no_grad():
        made = [job.generated(network, batch, last, "judged", learns=False) for batch in batches]
    return as_points(torch.cat(made))


@pytest.mark.wide()
def test_self_forcing_goes_a_part_of_the_way(tmp_path: Path) -> None:
    """Of clips of two frames of one mode, by a student that makes the second frame from its own first, in four steps.
    (In one step, whose first frame is the mean of both modes, the second follows it to the larger one.)"""
    training = {"steps": 240, "learning_rate": 6e-3, "decay": "cosine", "ema": 0.97, "betas": [0.0, 0.99]}
    with two_modes(tmp_path, PATHS["flow"], frames=2) as world:
        job = world.job(SelfForcingJob, training, critic_updates=2, steps=4, causal={"block": 1})
        first = world.judge(rolled(job), draws=4)
        with world.train(job, tmp_path / "run")._averages():
            found = world.judge(rolled(job), draws=8)
    assert found.distance < 0.97 * first.distance
    assert abs(found.share - found.teachers) < 0.95 * abs(first.share - first.teachers)
