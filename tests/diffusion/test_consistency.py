"""Consistency functions: LCM's boundary, the solver's step, and the closed form of a Gaussian target on every path."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from kinolab.denoisers.base import Conditions
from kinolab.diffusion import SAMPLERS, Denoised, Diffusion, DiffusionConfig, SamplerConfig
from kinolab.diffusion.consistency import boundary, consistency_function, distance, ode_step
from kinolab.diffusion.edm import EdmConfig
from kinolab.diffusion.samplers import Denoise
from kinolab.errors import InputError
from tests.closeness import assert_close, assert_small
from tests.diffusion.test_samplers import CONFIGS, MU, S, best, spread

PATHS = {**CONFIGS, "edm-half": DiffusionConfig(schedule="edm", prediction="edm", edm=EdmConfig(sigma_data=0.5))}


def points(config: str) -> tuple[Diffusion, Tensor, Tensor, Tensor]:
    """A diffusion, three times and the ones below them, the last of which is the clean end; z (3, 2, 1, 1, 1)."""
    diffusion = Diffusion(PATHS[config])
    times = diffusion.times(SamplerConfig(name="consistency", steps=6))
    z = torch.randn(3, 2, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return diffusion, times[[1, 3, 5]], times[[2, 4, 6]], z


def test_the_boundary_is_lcms() -> None:
    """c_skip and c_out of LCM's timesteps 1, 20 and 500 by its published formula, with timestep scaling 10."""
    c_skip, c_out = boundary(Diffusion(PATHS["flow"]).path, torch.tensor([1.0, 20.0, 500.0]))
    for k, step in enumerate((1, 20, 500)):
        assert float(c_skip[k]) == pytest.approx(0.25 / ((step / 0.1) ** 2 + 0.25), rel=1e-12)
        assert float(c_out[k]) == pytest.approx((step / 0.1) / ((step / 0.1) ** 2 + 0.25) ** 0.5, rel=1e-12)


@pytest.mark.parametrize("config", PATHS)
def test_nothing_is_changed_at_the_clean_end(config: str) -> None:
    """f(z, clean) is the sample that z is there, whatever the network says."""
    diffusion, _, _, z = points(config)
    path = diffusion.path
    clean = torch.full((3,), path.clean_time, dtype=torch.float64)
    x = z / path.scalars(path.clean_time)[0]
    assert_close(consistency_function(torch.randn_like(z), z, clean, path), x)
    # And at the noisy end it is what the network says.
    start = torch.full((3,), float(diffusion.times(SamplerConfig(name="consistency", steps=2))[0])).double()
    assert_close(consistency_function(x, torch.randn_like(z), start, path), x, within=1e-6)


@pytest.mark.parametrize("config", PATHS)
def test_the_solver_steps_as_the_samplers_ddim_and_euler_do(config: str) -> None:
    diffusion, t, s, z = points(config)
    x = torch.tanh(z)
    actual = ode_step(z, x, t, s, diffusion.path)
    for name in ("ddim", "euler"):
        for k in range(3):
            row, pair = slice(k, k + 1), torch.stack([t[k], s[k]])
            denoise: Denoise = lambda z, t, row=row: Denoised(x[row])  # type: ignore[misc]  # noqa: E731
            step = SAMPLERS.get(name).sample
            expected = step(denoise, z[row], pair, path=diffusion.path, config=SamplerConfig(name=name))
            assert_close(actual[row], expected, within=1e-6)  # samplers' own times are numbers of float32


@pytest.mark.parametrize("config", ["cosine-v", "zero-v", "flow-v-shifted", "edm-f"])
def test_a_gaussians_consistency_function_is_the_same_along_the_solvers_steps(config: str) -> None:
    """Its closed form is mu + s (z - alpha mu) / sqrt(alpha^2 s^2 + sigma^2); short steps of the ODE keep it."""
    diffusion = Diffusion(PATHS[config])
    path = diffusion.path
    times = diffusion.times(SamplerConfig(name="consistency", steps=1000))
    z = torch.tensor([-1.3, 0.2, 1.1], dtype=torch.float64).reshape(3, 1, 1, 1, 1)

    def closed(z: Tensor, t: float) -> Tensor:
        return MU + S / spread(path, t) * (z - path.scalars(t)[0] * MU)

    expected = closed(z, float(times[300]))
    for t, s in pairwise(times[300:701]):
        z = ode_step(z, best(path, z, float(t)), t.repeat(3), s.repeat(3), path)
    assert_close(closed(z, float(times[700])), expected, within=3e-3)


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("config", ["zero-v", "flow", "flow-v-shifted", "edm-half"])
@pytest.mark.slow
def test_consistency_sampling_of_a_gaussian_is_exact_in_any_number_of_steps(config: str, steps: int) -> None:
    """On paths that begin with (nearly) pure noise; DDIM in as few steps is far off, which shows that the test sees."""
    diffusion = Diffusion(PATHS[config])
    noise = torch.randn(20000, 1, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def run(name: str, f: bool) -> Tensor:
        def denoiser(z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
            time = float(t[0])
            alpha, sigma = diffusion.path.scalars(time)
            x = MU + S / spread(diffusion.path, time) * (z - alpha * MU) if f else best(diffusion.path, z, time)
            return diffusion.target(x, (z - alpha * x) / sigma, t)

        generator = torch.Generator().manual_seed(1)
        sampler = SamplerConfig(name=name, steps=steps)
        return diffusion.sample(denoiser, noise, Conditions(), sampler=sampler, generator=generator)

    found, ddim = run("consistency", True), run("ddim" if diffusion.config.schedule != "edm" else "euler", False)
    assert float(found.mean()) == pytest.approx(MU, abs=0.01)
    assert float(found.std()) == pytest.approx(S, rel=0.02)
    assert abs(float(ddim.std()) - S) > 0.1 * S


def test_distances() -> None:
    a, b = torch.tensor([[3.0, 0.0], [1.0, 1.0]]).double(), torch.zeros(2, 2).double()
    assert distance(a, b, "squared").tolist() == pytest.approx([4.5, 1.0], rel=1e-12)
    c = 1e-3
    expected = [((9 + c * c) ** 0.5 - c) / 2, (1 + c * c) ** 0.5 - c]
    assert distance(a, b, "huber").tolist() == pytest.approx(expected, rel=1e-12)
    weight = torch.tensor([[1.0, 0.0], [1.0, 3.0]]).double()
    assert distance(a, b, "squared", weight=weight).tolist() == pytest.approx([9.0, 1.0], rel=1e-12)


@pytest.mark.parametrize(("config", "times"), [
    ("linear-noise", [999, 749, 499, 249, -1]),
    ("flow", [1000, 750, 500, 250, 0]),
    ("flow-v-shifted", [1000, 900, 750, 500, 0]),  # s t / (1 + (s - 1) t) with s = 3
])  # fmt: skip
def test_few_steps_lie_trailing(config: str, times: list[float]) -> None:
    found = Diffusion(PATHS[config]).times(SamplerConfig(name="consistency", steps=4))
    assert found.tolist() == pytest.approx(times, rel=1e-12)


@pytest.mark.parametrize("config", ["linear-noise", "zero-v", "flow-v-shifted", "edm-half"])
def test_few_steps_begin_at_times_of_the_solvers_grid(config: str) -> None:
    """Those of 48 steps, of which every 12th is one of 4; EDM's least level, where f is z, is no step's beginning."""
    diffusion = Diffusion(PATHS[config])
    many, few = (diffusion.times(SamplerConfig(name="consistency", steps=n)) for n in (48, 4))
    assert few.tolist() == pytest.approx(many[::12].tolist(), rel=1e-12)
    assert_small(boundary(diffusion.path, many[:-1])[0], torch.tensor([0.0, 1.0]), within=2e-3)


def test_steps_are_shifted_towards_the_noise() -> None:
    """A shift of the sampler is one of rectified flow, and shifts of shifts multiply."""
    shifted, flow = SamplerConfig(name="consistency", steps=4, shift=3.0), Diffusion(PATHS["flow"])
    twice = Diffusion(DiffusionConfig(schedule="flow", prediction="flow", time_shift=9.0))
    plain = SamplerConfig(name="consistency", steps=4)
    assert_close(flow.times(shifted), Diffusion(PATHS["flow-v-shifted"]).times(plain))
    assert_close(Diffusion(PATHS["flow-v-shifted"]).times(shifted), twice.times(plain))
    discrete = Diffusion(PATHS["linear-noise"])
    assert discrete.times(shifted).tolist() == [999, 899, 749, 498, -1]  # of 999 / 999, 749 / 999, ...
    with pytest.raises(InputError, match="100 steps fall on fewer times"):
        discrete.times(shifted.model_copy(update={"steps": 100, "shift": 200.0}))
    with pytest.raises(ValueError, match="shift is for the consistency sampler only, not ddim"):
        SamplerConfig(shift=2.0)


def test_the_end_of_a_trajectory_is_its_own_target() -> None:
    """A step to the clean end gives the teacher's estimate, which f then leaves as it is."""
    diffusion, t, _, z = points("flow")
    x = torch.tanh(z)
    end = ode_step(z, x, t, torch.zeros(3).double(), diffusion.path)
    assert_small(end - x, beside=x, within=1e-12)
