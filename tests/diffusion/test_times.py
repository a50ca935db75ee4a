"""Distributions of training times against their densities."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kinolab.diffusion.times import MODE_SCALE_MAX, cosmap, inside, logit_normal, mode, within
from kinolab.errors import InputError
from tests.closeness import assert_close

U = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000


def logit_normal_density(t: Tensor, m: float, s: float) -> Tensor:
    """Esser et al. 2024, eq. 19."""
    return torch.exp(-(torch.logit(t) - m).square() / (2 * s * s)) / (s * math.sqrt(2 * math.pi) * t * (1 - t))


def cosmap_density(t: Tensor) -> Tensor:
    """Eq. 22."""
    return 2 / (math.pi - 2 * math.pi * t + 2 * math.pi * t * t)


@pytest.mark.parametrize(
    ("times", "density"),
    [
        (lambda u: logit_normal(u, 0.0, 1.0), lambda t: logit_normal_density(t, 0.0, 1.0)),
        (lambda u: logit_normal(u, 0.5, 0.6), lambda t: logit_normal_density(t, 0.5, 0.6)),
        (lambda u: logit_normal(u, -1.0, 1.5), lambda t: logit_normal_density(t, -1.0, 1.5)),
        (cosmap, cosmap_density),
    ],
)
def test_times_have_the_published_density(
    times: Callable[[Tensor], Tensor], density: Callable[[Tensor], Tensor]
) -> None:
    t = times(U)
    assert t.dtype == torch.float64 and float(t.min()) >= 0 and float(t.max()) <= 1
    edges = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    counts = torch.histogram(t, edges)[0] / len(U)
    fine = edges[:1] + (torch.arange(18 * 200, dtype=torch.float64) + 0.5) * 0.05 / 200
    expected = density(fine).reshape(18, 200).mean(1) * 0.05
    assert_close(counts, expected, within=0.001)


@pytest.mark.parametrize("scale", [-1.0, -0.5, 0.0, 0.81, 1.29, MODE_SCALE_MAX])
def test_mode_falls_from_one_to_zero_and_keeps_the_middle(scale: float) -> None:
    t = mode(U, scale)
    assert (t.diff() <= 1e-12).all() and float(t[0]) == pytest.approx(1, rel=1e-4) and float(t[-1]) < 1e-4
    assert float(mode(torch.tensor(0.5), scale)) == pytest.approx(0.5)


def test_mode_has_the_density_of_its_slope() -> None:
    """|dt/du| at u = 1/2 is 1 + s (1 - pi/2), at the ends 1 + s: its inverse is the density there."""
    for scale in (-1.0, 0.81, 1.29):
        t = mode(U, scale)
        middle = float(((t > 0.497) & (t < 0.503)).double().mean()) / 0.006
        end = float((t < 0.01).double().mean()) / 0.01
        assert middle == pytest.approx(1 / (1 + scale * (1 - math.pi / 2)), rel=0.01)
        if scale > -1:  # at -1 the density has a pole at the ends
            assert end == pytest.approx(1 / (1 + scale), rel=0.03)
    assert_close(mode(U, 0.0), 1 - U)


def test_cosmap_has_the_cosine_schedules_signal_to_noise_ratio() -> None:
    t = cosmap(U)
    assert_close((1 - t) / t, 1 / torch.tan(math.pi / 2 * U), within=1e-6)


@pytest.mark.filterwarnings("ignore")  # diffusers' own
def test_mode_is_diffusers_own() -> None:
    training = pytest.importorskip("diffusers.training_utils")
    torch.manual_seed(0)
    expected = training.compute_density_for_timestep_sampling("mode", 64, mode_scale=1.29)
    torch.manual_seed(0)
    assert_close(mode(torch.rand(64), 1.29).float(), expected)


def test_times_of_an_interval_are_distributed_as_they_are_there_anyway() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return logit_normal(torch.rand(2_000, generator=generator, dtype=torch.float64), 0.0, 1.0)

    t = within(draw, lambda t: t, (0.5, 1.0))
    every = draw()
    expected = every[every >= 0.5].mean()
    assert t.shape == (2_000,) and float(t.min()) >= 0.5
    assert float(t.mean()) == pytest.approx(float(expected), rel=0.03)
    state = generator.get_state()
    whole = within(draw, lambda t: t, (0.0, 1.0))
    generator.set_state(state)
    assert torch.equal(whole, draw()), "one draw"
    with pytest.raises(InputError, match="hardly ever lie there"):
        within(lambda: torch.full((2,), 0.3), lambda t: t, (0.5, 1.0))
    assert inside((0.1, 0.5, 0.9), (0.5, 1.0)) == (0.5, 0.9)
    assert inside((0.1,), (0.5, 1.0)) == (0.75,)
