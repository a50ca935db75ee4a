"""Schedules, time axes and spacings."""

from __future__ import annotations

import math

import pytest
import torch

from kinolab.diffusion.edm import EdmPath
from kinolab.diffusion.path import (
    DiscretePath,
    FlowPath,
    LogSnrPath,
    cosine_betas,
    linear_betas,
    resolution_shift,
    spaced_timesteps,
)
from kinolab.errors import InputError
from tests.closeness import assert_close

PATHS = {
    "linear": DiscretePath(linear_betas(1000)),
    "cosine": DiscretePath(cosine_betas(1000)),
    "linear-zero": DiscretePath(linear_betas(1000), zero_terminal_snr=True),
    "cosine-zero": DiscretePath(cosine_betas(1000), zero_terminal_snr=True),
    "flow": FlowPath(),
    "flow-shifted": FlowPath(3.0),
    "edm": EdmPath(),
    "logsnr": LogSnrPath(),
}


@pytest.mark.parametrize("name", PATHS)
def test_snr_falls_along_the_path_and_clean_time_is_clean(name: str) -> None:
    path = PATHS[name]
    assert path.scalars(path.clean_time) == (1.0, 0.0)
    times = path.times(40)
    assert times.dtype == torch.float64 and times.shape == (41,) and (times.diff() < 0).all()
    assert (path.log_snr_half(times).diff() > 0).all()


@pytest.mark.parametrize("name", [n for n in PATHS if n.startswith(("linear", "cosine"))])
def test_discrete_paths_preserve_the_variance(name: str) -> None:
    alpha, sigma = PATHS[name].alpha_sigma(torch.arange(1000))
    assert_close(alpha.square() + sigma.square(), torch.ones(1000, dtype=torch.float64))


def test_zero_terminal_snr_moves_the_last_step_to_noise_and_keeps_the_first() -> None:
    plain, zero = PATHS["linear"], PATHS["linear-zero"]
    assert zero.scalars(999) == (0.0, 1.0)
    assert plain.scalars(999)[0] > 0.006
    assert zero.scalars(0) == pytest.approx(plain.scalars(0), abs=1e-12)


def test_cosine_follows_the_paper() -> None:
    def f(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    alpha, _ = PATHS["cosine"].scalars(499)
    assert alpha**2 == pytest.approx(f(0.5) / f(0.0), rel=1e-12)


@pytest.mark.parametrize("name", PATHS)
def test_posterior_is_bayes_rule(name: str) -> None:
    """Joint Gaussian of (z_s, z_t) given x: condition z_s on z_t by hand."""
    path = PATHS[name]
    t, s = (0.6, 0.2) if name == "edm" else (600.0, 200.0)  # EDM's times are of another unit
    (alpha_t, sigma_t), (alpha_s, sigma_s) = path.scalars(t), path.scalars(s)
    covariance = alpha_t / alpha_s * sigma_s**2
    q = path.posterior(t, s)
    assert float(q.z) == pytest.approx(covariance / sigma_t**2)
    assert float(q.sample) == pytest.approx(alpha_s - covariance / sigma_t**2 * alpha_t)
    assert float(q.variance) == pytest.approx(sigma_s**2 - covariance**2 / sigma_t**2)
    assert q.variance <= q.transition


def test_spacings() -> None:
    assert spaced_timesteps(1000, 5, "linspace") == [999, 749, 500, 250, 0]
    assert spaced_timesteps(1000, 5, "trailing") == [999, 799, 599, 399, 199]
    assert spaced_timesteps(1000, 5, "leading") == [800, 600, 400, 200, 0]
    assert spaced_timesteps(1000, 1, "linspace") == [999]
    for spacing in ("linspace", "trailing", "leading"):
        for steps in (1, 2, 7, 333, 999, 1000):
            times = spaced_timesteps(1000, steps, spacing)
            assert len(set(times)) == steps and times == sorted(times, reverse=True)
            assert times[-1] >= 0 and times[0] <= 999


def test_auto_spacing_reaches_pure_noise_where_there_is_any() -> None:
    assert PATHS["linear"].times(4)[:-1].tolist() == [999, 666, 333, 0]
    assert PATHS["linear-zero"].times(4)[:-1].tolist() == [999, 749, 499, 249]
    assert PATHS["flow"].times(4).tolist() == [1000, 750, 500, 250, 0]


def test_time_shift_formula_in_sampling_and_training() -> None:
    u = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    expected = 3.0 * u / (1 + 2.0 * u)
    assert_close(PATHS["flow-shifted"].warp(u), expected * 1000)
    assert_close(PATHS["flow-shifted"].times(4)[2], torch.tensor(750.0).double())


def test_flow_with_linspace_ends_at_the_least_training_time() -> None:
    times = PATHS["flow"].times(4, "linspace")
    assert_close(times, torch.tensor([1000.0, 667.0, 334.0, 1.0, 0.0]).double())
    assert PATHS["flow-shifted"].times(1, "linspace").tolist() == [1000.0, 0.0]


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_the_shift_by_resolution_keeps_the_doubt_about_a_constant(t: float) -> None:
    """Esser et al. 2024, section 5.3.2: the mean of n positions of z_t tells a constant up to t / (1 - t) / sqrt(n)."""
    n, m = 256, 4096
    shift = resolution_shift(m, n)
    moved = float(FlowPath(shift).shifted(torch.tensor(t).double()))
    assert shift == 4.0
    assert moved / (1 - moved) / m**0.5 == pytest.approx(t / (1 - t) / n**0.5)


def test_discrete_warp_gives_every_step_the_same_share() -> None:
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    counts = torch.bincount(PATHS["linear"].warp(u).long(), minlength=1000)
    assert (counts == 10).all()


@pytest.mark.parametrize(
    ("name", "steps", "spacing", "message"),
    [
        ("linear", 1001, "auto", "1 to 1000 steps"),
        ("linear", 0, "auto", "1 to 1000 steps"),
        ("linear-zero", 10, "leading", "trailing or linspace"),
        ("flow", 10, "leading", "never visits t = 1"),
        ("flow", 0, "auto", "at least 1 step"),
    ],
)
def test_impossible_steps_are_explained(name: str, steps: int, spacing: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PATHS[name].times(steps, spacing)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "t"), [("linear", 1000.0), ("linear", 0.5), ("flow", 1001.0), ("flow", -1.0)])
def test_times_off_the_path_are_refused(name: str, t: float) -> None:
    with pytest.raises(InputError, match="expected"):
        PATHS[name].alpha_sigma(torch.tensor([t]))


def test_a_linear_schedule_of_too_few_steps_is_refused() -> None:
    with pytest.raises(InputError, match="more than 20 steps"):
        linear_betas(20)
