"""Progressive distillation: its equations in float64, its rounds, and that a student samples what its teacher does."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab.config import load_config
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.diffusion.progressive import Weight, as_prediction, distance, jump_target, sample_weight, two_step_target
from kinolab.diffusion.samplers import SAMPLERS, Denoised
from kinolab.errors import InputError
from kinolab.models import read_model_config
from kinolab.training.jobs.progressive import ProgressiveJob
from kinolab.training.progressive import ProgressiveRecipe, planned
from tests.closeness import assert_close, assert_same
from tests.two_modes import two_modes

PATHS = {
    "flow": DiffusionConfig(schedule="flow", prediction="flow"),
    "shifted": DiffusionConfig(schedule="flow", prediction="v", time_shift=3.0),
    "discrete": DiffusionConfig(schedule="cosine", prediction="v", zero_terminal_snr=True),
    "noise": DiffusionConfig(schedule="linear", prediction="noise"),
    "log_snr": DiffusionConfig(schedule="cosine_logsnr", prediction="v"),
    "sample": DiffusionConfig(schedule="cosine_logsnr", prediction="sample"),
}
WEIGHTS: tuple[Weight, ...] = ("constant", "snr", "truncated", "snr_plus_one")


def teacher(z: Tensor, t: Tensor) -> Tensor:
    """An estimate of the clean sample that depends on z and on the time."""
    told = (t.double() / 1000).view(-1, *[1] * (z.ndim - 1))
    return torch.tanh(z * (1 - 0.5 * told)) + 0.1 * torch.cos(3 * told)


def points(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("name", PATHS)
def test_one_step_towards_the_target_is_two_of_the_teacher(name: str) -> None:
    process, N = Diffusion(PATHS[name]), 5
    grid = process.path.times(2 * N, "trailing")
    assert_close(grid[::2], process.path.times(N, "trailing"))
    times = torch.stack([grid[2 * torch.arange(N) + k] for k in range(3)])
    z = points(N, 2, 1, 2, 2)
    found = two_step_target(process, teacher, z, times)
    for row in range(N):

        def denoise(z: Tensor, t: float) -> Denoised:
            return Denoised(teacher(z, torch.full((len(z),), t, dtype=torch.float64)))

        def jump(z: Tensor, t: float, x: Tensor = found[row : row + 1]) -> Denoised:
            return Denoised(x)

        sample, config = SAMPLERS.get("ddim").sample, SamplerConfig()
        two = sample(denoise, z[row : row + 1], times[:, row], path=process.path, config=config)
        one = sample(jump, z[row : row + 1], times[::2, row], path=process.path, config=config)
        # Rectified flow takes a time that is a plain number in float32.
        assert_close(one, two, within=1e-7 if PATHS[name].schedule == "flow" else 1e-9)


@pytest.mark.parametrize("name", PATHS)
def test_the_last_target_is_the_teachers_own_second_estimate(name: str) -> None:
    process = Diffusion(PATHS[name])
    times = process.path.times(8, "trailing")[-3:, None].expand(3, 2)
    z, seen = points(2, 1, 1, 2, 2), []

    def estimate(z: Tensor, t: Tensor) -> Tensor:
        seen.append(teacher(z, t))
        return seen[-1]

    assert_same(two_step_target(process, estimate, z, times), seen[1])


def test_the_target_is_the_published_one() -> None:
    """x* = (z'' - (s'' / s) z) / (a'' - (s'' / s) a), by numbers."""
    z, end = torch.tensor([2.0], dtype=torch.float64), torch.tensor([1.5], dtype=torch.float64)
    now, then = (
        (torch.tensor(0.6, dtype=torch.float64), torch.tensor(0.8, dtype=torch.float64)),
        (torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)),
    )
    assert float(jump_target(z, end, now, then)) == pytest.approx((1.5 - 0.75 * 2.0) / (0.8 - 0.75 * 0.6), abs=1e-12)


@pytest.mark.parametrize(("name", "weight"), list(itertools.product(PATHS, WEIGHTS)))
def test_the_error_of_a_prediction_is_that_of_its_sample_by_the_weight(name: str, weight: Weight) -> None:
    process, B = Diffusion(PATHS[name]), 4
    t = process.path.at_fraction(torch.tensor([0.1, 0.4, 0.7, 0.95]))
    z, x, other = (points(B, 2, 1, 2, 2) for _ in range(3))
    found = distance(process, as_prediction(process, other, z, t), as_prediction(process, x, z, t), t, weight)
    alpha, sigma = process.path.alpha_sigma(t)
    snr = (alpha / sigma) ** 2
    by_hand = {"constant": 1.0 + 0 * snr, "snr": snr, "truncated": snr.clamp(min=1), "snr_plus_one": snr + 1}[weight]
    assert_close(sample_weight(weight, alpha, sigma), by_hand)
    assert_close(found, by_hand.view(-1, 1, 1, 1, 1) * (other - x).square(), within=1e-8)


def test_weights_of_other_predictions_errors() -> None:
    """SNR counts the error of the noise, SNR + 1 that of v on a path that preserves the variance."""
    alpha, sigma = torch.tensor(0.6, dtype=torch.float64), torch.tensor(0.8, dtype=torch.float64)
    noise = Diffusion(PATHS["noise"])
    velocity = Diffusion(PATHS["log_snr"])
    for process, weight in ((noise, "snr"), (velocity, "snr_plus_one")):
        t = process.path.at_fraction(torch.tensor([0.3, 0.8]))
        a, b = points(2, 1, 1, 1, 1), points(2, 1, 1, 1, 1)
        assert_close(distance(process, a, b, t, weight), (a - b).square(), within=1e-8)  # type: ignore[arg-type]
    assert float(sample_weight("truncated", sigma, alpha)) == pytest.approx(16 / 9, rel=1e-12)
    assert float(sample_weight("truncated", alpha, sigma)) == 1.0


def test_where_there_is_noise_alone_every_weight_is_finite() -> None:
    process = Diffusion(PATHS["flow"])
    t = torch.tensor([1000.0])
    for weight in WEIGHTS:
        assert torch.isfinite(distance(process, points(1, 1, 1, 1, 1), points(1, 1, 1, 1, 1), t, weight)).all()


def recipe(teacher: Path, **fields: Any) -> ProgressiveRecipe:
    values = {"kind": "progressive", "name": "p", "teacher": str(teacher), "data": {"kind": "world"}, **fields}
    return load_config(ProgressiveRecipe, values, name="recipe")


def test_rounds_share_the_steps(tmp_path: Path) -> None:
    with two_modes(tmp_path, PATHS["flow"]) as world:

        def of(steps: int, guided: bool = False, **fields: Any) -> list[tuple[int, int, int | None]]:
            made = recipe(world.folder, training={"steps": steps}, **fields)
            return [(r.first, r.last, r.steps) for r in planned(made, guided=guided)]

        assert of(500) == [(0, 100, 16), (100, 300, 8), (300, 500, 4)]
        assert of(600, guided=True) == [(0, 100, None), (100, 200, 16), (200, 400, 8), (400, 600, 4)]
        assert of(600, guided=True, guidance_first=False)[0] == (0, 120, 16)
        assert of(100, rounds=[2, 1], shares=[3, 1]) == [(0, 75, 2), (75, 100, 1)]
        assert of(3, rounds=[4, 2, 1], shares=[0.01, 0.01, 9]) == [(0, 1, 4), (1, 2, 2), (2, 3, 1)]
        for steps, fields, said in (
            (2, {}, "at least one for each of 16 steps, 8 steps, 4 steps"),
            (9, {"shares": [1, 2]}, "expected 3 numbers above 0"),
            (9, {"shares": [1, 2, 0]}, "expected 3 numbers above 0"),
            (9, {"rounds": [8, 4, 3]}, "steps that halve"),
            (9, {"rounds": []}, "rounds"),
            (9, {"rounds": [4, 0]}, "greater than or equal to 1"),
        ):
            with pytest.raises(InputError, match=said):
                of(steps, **fields)


def test_rounds_stay_where_a_run_goes_on_and_begin_with_the_teacher(tmp_path: Path) -> None:
    with two_modes(tmp_path, PATHS["flow"]) as world:
        former = recipe(world.folder, training={"steps": 6})
        assert recipe(world.folder, training={"steps": 6, "learning_rate": 1e-3}).resumed(former).training.steps == 6
        for fields in ({"rounds": [8, 4]}, {"shares": [1, 1, 1]}, {"guidance_first": True}, {"training": {"steps": 9}}):
            with pytest.raises(InputError, match="moves the rounds under a run"):
                recipe(world.folder, **{"training": {"steps": 6}, **fields}).resumed(former)
        model = read_model_config(world.folder)
        former.check(model)
        shutil.copytree(world.folder, tmp_path / "other")
        with pytest.raises(InputError, match=r"initial\.path=.*other: .*leave initial out"):
            recipe(world.folder, training={"steps": 6}, initial={"path": str(tmp_path / "other")}).check(model)


@pytest.mark.slow
def test_a_student_samples_what_its_teacher_does_in_twice_as_many_steps(tmp_path: Path) -> None:
    few, many = (SamplerConfig(name="ddim", steps=n, spacing="trailing") for n in (4, 8))
    with two_modes(tmp_path, PATHS["flow"]) as world:
        training = {"steps": 200, "learning_rate": 1e-2, "decay": "linear", "batch_size": 8}
        job = world.job(ProgressiveJob, training, rounds=[4])
        with pytest.raises(AssertionError, match="apart"):
            world.judged(job.network, few, many, draws=8).check()
        world.train(job, tmp_path / "run")
        world.judged(job.network, few, many, draws=8).check()


@pytest.mark.wide
@pytest.mark.parametrize("path", ["flow", "discrete", "log_snr"])
def test_halved_to_one_step_it_still_samples_two_modes(tmp_path: Path, path: str) -> None:
    with two_modes(tmp_path, PATHS[path]) as world:
        training = {"steps": 4000, "learning_rate": 5e-3, "decay": "linear"}
        job = world.job(ProgressiveJob, training, rounds=[16, 8, 4, 2, 1])
        world.train(job, tmp_path / "run")
        usual = SamplerConfig(name="ddim", steps=32, spacing="trailing")
        world.judged(job.network, SamplerConfig(name="ddim", steps=1, spacing="trailing"), usual).check()
