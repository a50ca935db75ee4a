"""A run that begins with less noise, on a Gaussian whose trajectories are known; for whom it is, and beside what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab.contracts.conditions import Conditions, Value
from kinolab.contracts.method import Run
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.errors import InputError
from kinolab.methods import build
from kinolab.models.distilled import of_students
from kinolab.tasks import predict_mask
from tests.closeness import assert_close, assert_same
from tests.tiny_model import tiny_model, tiny_vdt

PATHS = {
    "flow": DiffusionConfig(schedule="flow", prediction="flow"),
    "cosine": DiffusionConfig(schedule="cosine", prediction="v", zero_terminal_snr=True),
}
MEAN, DEVIATION = 0.7, 0.4
NOISE = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def sampled(path: str, conditions: Conditions = Conditions(), **fields: Any) -> Tensor:
    """Samples of N(MEAN, DEVIATION^2) by its best denoiser."""
    process = Diffusion(PATHS[path])

    def denoiser(z: Tensor, t: Tensor, told: Any) -> Tensor:
        alpha, sigma = process.coefficients(t, z)
        seen = (alpha * DEVIATION).square() + sigma.square()
        x = MEAN + alpha * DEVIATION**2 / seen * (z - alpha * MEAN)
        return process.target(x, (z - alpha * x) / sigma, t)

    methods = build({"temperature": fields}) if fields else []
    sampler = SamplerConfig(name="heun", steps=160, spacing="trailing")
    return process.sample(denoiser, NOISE, conditions, sampler=sampler, methods=methods)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("until", [0.0, 0.5, 0.85])
def test_the_spread_is_that_of_the_trajectory_with_the_rest_of_the_noise_added(path: str, until: float) -> None:
    """A trajectory keeps (z - alpha mean) / spread; what is put back at s adds sigma_s / spread of the rest."""
    process = Diffusion(PATHS[path])
    times = process.times(SamplerConfig(name="heun", steps=160, spacing="trailing"), positions=NOISE[0].numel())
    share = 0.4
    if until:
        s = next(float(t) for t in times if process.path.fraction(float(t)) <= until)
        alpha, sigma = process.path.scalars(s)
        share += 0.6 * sigma / ((alpha * DEVIATION) ** 2 + sigma**2) ** 0.5
    whole = sampled(path) - MEAN
    assert_close(sampled(path, noise=0.4, until=until) - MEAN, share * whole, within=0.01)
    assert_close(whole, DEVIATION * NOISE, within=0.02)


def test_all_of_the_noise_is_a_run_without_it() -> None:
    assert_same(sampled("flow", noise=1.0), sampled("flow"))
    assert_close(sampled("flow", noise=1.0, until=0.5), sampled("flow"))
    assert_close(sampled("flow", noise=0.5, until=0.9999), sampled("flow"), within=1e-3)


def test_it_may_be_for_runs_that_are_told_a_part() -> None:
    told = Conditions.of({"given": Value("vector", torch.zeros(2))})
    assert_same(sampled("flow", noise=0.5, when="given"), sampled("flow"))
    assert_same(sampled("flow", told, noise=0.5, when="given"), sampled("flow", noise=0.5))


def test_a_models_own_is_for_its_predictions_and_not_for_what_it_makes_of_nothing() -> None:
    model, clip = tiny_vdt(), torch.zeros(1, 3, 5, 32, 32)
    own = model.config.model_copy(update={"methods": {"temperature": {"noise": 0.5, "when": "given"}}})
    mask = predict_mask(5, 32, 32, 1)[None, None]
    free, predicted = model.generate(seed=3), model.complete(clip, mask)
    model.config = own
    assert_same(model.generate(seed=3), free)
    calmer = model.complete(clip, mask)
    assert not torch.equal(calmer, predicted)
    assert_same(model.complete(clip, mask, methods=build({"temperature": {"noise": 1.0}})), predicted)


@pytest.mark.parametrize(
    ("fields", "beside"),
    [({"noise": 0.5}, {"noise": {"kind": "same"}}), ({"noise": 0.5}, {"text2video_zero": {"motion": [1, 0]}})],
)
def test_the_noise_of_another_method_is_its_own(fields: dict[str, Any], beside: dict[str, Any]) -> None:
    model = tiny_model(text=False)
    with pytest.raises(InputError, match="leave"):
        model.generate(methods=build({"temperature": fields, **beside}))


@pytest.mark.parametrize("fields", [{}, {"noise": 0.0}, {"noise": 1.5}, {"noise": 0.5, "until": 1.0}])
def test_spreads_and_times_beyond_the_run_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="temperature"):
        build({"temperature": fields})


def test_a_student_of_few_steps_begins_with_all_of_its_noise() -> None:
    assert of_students({"temperature": {"noise": 0.2}, "thresholding": {"kind": "static"}}) == {
        "thresholding": {"kind": "static"}
    }


def test_nothing_is_left_out_of_a_clip_that_is_inverted() -> None:
    [method] = build({"temperature": {"noise": 0.5}})
    run = Run(None, Conditions(), tuple(NOISE.shape), 4, Diffusion(PATHS["flow"]).path, backwards=True)
    assert_same(method.started(NOISE, run), NOISE)
