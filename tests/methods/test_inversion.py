"""Inversion: it leads back to the clip, exactly where it is refined and else by the order of its steps."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab.contracts.method import Denoise, Run
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig, conversions
from kinolab.diffusion.run import wrapped_estimate
from kinolab.errors import InputError
from kinolab.methods import Guidance, GuidanceConfig, Inversion, InversionConfig, build
from kinolab.methods.inversion import begun, clean_latents, invert
from tests.closeness import assert_close, assert_same, difference

PATHS: dict[str, dict[str, Any]] = {
    "linear": {"schedule": "linear"},
    "cosine": {"schedule": "cosine"},
    "scaled_linear": {"schedule": "scaled_linear"},
    "zero_snr": {"schedule": "scaled_linear", "zero_terminal_snr": True},
    "flow": {"schedule": "flow"},
    "shifted": {"schedule": "flow", "time_shift": 3.0},
    "edm": {"schedule": "edm", "edm": {"sigma_max": 80.0, "sigma_data": 0.5}},
}
ALL = ("noise", "sample", "v", "flow", "edm")
CASES = [
    (path, prediction)
    for path in PATHS
    for prediction in ALL
    if not (prediction == "noise" and path in ("zero_snr", "flow", "shifted"))
]
SHAPE = (2, 3, 2, 4, 4)


def process(path: str, prediction: str) -> Diffusion:
    return Diffusion(DiffusionConfig.model_validate({**PATHS[path], "prediction": prediction}))


def two_humps(diffusion: Diffusion, centre: float = 0.6, width: float = 0.7) -> Callable[..., Tensor]:
    """The exact denoiser of data at +-centre with a Gaussian width, in the terms of its prediction."""

    def network(z: Tensor, t: Tensor, conditions: object) -> Tensor:
        alpha, sigma = diffusion.coefficients(t, z)
        variance = (alpha * width).square() + sigma.square()
        hump = centre * sigma.square() * torch.tanh(alpha * centre * z / variance)
        x = (alpha * width**2 * z + hump) / variance
        # At zero SNR a prediction of the sample or of v is x itself there, which the noise z / sigma goes with.
        e = (z - alpha * x) / sigma
        kind = diffusion.config.prediction
        return conversions.from_sample_and_noise(x, e, alpha, sigma, kind, diffusion.config.sigma_data)

    return network


def data() -> Tensor:
    return 0.8 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def estimate(diffusion: Diffusion, times: Tensor) -> Denoise:
    return wrapped_estimate(
        diffusion, Run(two_humps(diffusion), None, SHAPE, len(times) - 1, diffusion.path, times=times)
    )


def returned(diffusion: Diffusion, sampler: SamplerConfig, refine: int = 0) -> Tensor:
    """What a clip comes back as."""
    times = diffusion.times(sampler)
    start = clean_latents(data(), diffusion)
    *_, noisy = invert(estimate(diffusion, times), start, times, diffusion, refine)
    return diffusion.sample(two_humps(diffusion), noisy, None, sampler=sampler)


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
@pytest.mark.parametrize(("path", "prediction"), CASES)
@pytest.mark.slow
def test_a_refined_inversion_comes_back_to_the_clip(path: str, prediction: str, sampler: str) -> None:
    back = returned(process(path, prediction), SamplerConfig(name=sampler, steps=12), refine=60)
    # The cosine's last step goes to noise of which 1/20,000 is the clip's: what noise is predicted there tells little.
    assert_close(back, data(), within=0.05 if (path, prediction) == ("cosine", "noise") else 1e-6)


@pytest.mark.parametrize(("path", "prediction"), CASES)
@pytest.mark.slow
def test_its_error_halves_where_the_steps_are_doubled(path: str, prediction: str) -> None:
    """A step's error is of second order, and there are twice as many."""
    diffusion = process(path, prediction)
    few, twice, more = (
        difference(returned(diffusion, SamplerConfig(name="euler", steps=n)), data()) for n in (40, 80, 160)
    )
    assert few > twice > more > 0
    assert 1.6 < twice / more < 3.2, (few, twice, more)  # whole times are not quite even


def read_at_s(diffusion: Diffusion, times: Tensor) -> Tensor:
    """The noise by predictions read at the cleaner end of each step, as diffusers' DDIMInverseScheduler does."""
    z, network = data(), two_humps(diffusion)
    for t, s in reversed(list(pairwise(times))):
        given = network(z, t.expand(len(z)), None)
        x, e = (diffusion.convert(given, z, s.expand(len(z)), to) for to in ("sample", "noise"))
        z = diffusion.q_sample(x, t.expand(len(z)), e)
    return z


@pytest.mark.slow
@pytest.mark.parametrize("path", ["linear", "scaled_linear", "zero_snr"])
def test_a_velocity_read_at_the_noisy_end_of_a_step_comes_back_closer(path: str) -> None:
    diffusion, sampler = process(path, "v"), SamplerConfig(name="ddim", steps=50)
    noisy = read_at_s(diffusion, diffusion.times(sampler))
    theirs = difference(diffusion.sample(two_humps(diffusion), noisy, None, sampler=sampler), data())
    assert difference(returned(diffusion, sampler), data()) < theirs / 30


@pytest.mark.slow
@pytest.mark.parametrize("path", ["linear", "flow", "edm"])
def test_each_refinement_comes_closer(path: str) -> None:
    diffusion = process(path, "v")
    errors = [difference(returned(diffusion, SamplerConfig(steps=12), refine), data()) for refine in (0, 1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 30, errors


@pytest.mark.slow
@pytest.mark.parametrize("path", ["linear", "flow", "edm"])
def test_the_noise_of_the_data_is_unit_gaussian(path: str) -> None:
    """The flow carries the data's distribution to the noise's, so what comes out can be sampled from."""
    diffusion = process(path, "v")
    times = diffusion.times(SamplerConfig(steps=400))
    generator = torch.Generator().manual_seed(1)
    sign = torch.randint(2, (1, 1, 1, 100, 100), generator=generator) * 2.0 - 1.0
    x = 0.6 * sign.double() + 0.7 * torch.randn(sign.shape, generator=generator, dtype=torch.float64)
    *_, noisy = invert(estimate(diffusion, times), clean_latents(x, diffusion), times, diffusion)
    alpha, sigma = diffusion.path.scalars(float(times[0]))
    spread = float(noisy.var()) / (sigma**2 + alpha**2 * float(x.var()))
    assert abs(spread - 1) < 0.05 and abs(float(noisy.mean())) < 0.03


def test_a_step_of_rectified_flow_is_eulers_backwards_by_the_velocity_at_the_time_it_goes_to() -> None:
    diffusion, asked = process("flow", "flow"), list[float]()

    def network(z: Tensor, t: Tensor, conditions: object) -> Tensor:
        asked.append(float(t[0]))
        return z.square() * t[0] / 1000

    times = torch.tensor([1000.0, 600.0, 0.0], dtype=torch.float64)
    run = Run(network, None, SHAPE, 2, diffusion.path, times=times)
    first, second = invert(wrapped_estimate(diffusion, run), data(), times, diffusion)
    assert_close(first, data() + 0.6 * data().square() * 0.6)
    assert_close(second, first + 0.4 * first.square())
    assert asked == [600.0, 1000.0]


def test_iterations_that_lead_away_are_left_off_for_that_clip_alone() -> None:
    """A network that turns the second clip's iterations over and over; the first comes to its end beside it."""
    diffusion = process("flow", "flow")
    times = torch.tensor([1000.0, 0.0], dtype=torch.float64)
    steep = torch.tensor([0.3, -3.0], dtype=torch.float64).view(2, 1, 1, 1, 1)
    run = Run(lambda z, t, conditions: steep * z, None, SHAPE, 1, diffusion.path, times=times)
    [noisy] = invert(wrapped_estimate(diffusion, run), data(), times, diffusion, 60)
    assert_close(noisy[0], data()[0] / 0.7)  # z = x + 0.3 z
    assert float(noisy[1].abs().max()) <= 3 * float(data()[1].abs().max()), "no further than the first guess"


# --- as a method of a run


def told(diffusion: Diffusion, clean: Tensor, **fields: Any) -> Inversion:
    return Inversion(InversionConfig(**fields), clean=clean, conditions=None, diffusion=diffusion)


@pytest.mark.slow
@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0])
def test_a_run_that_begins_in_the_middle_makes_the_last_steps_alone(strength: float) -> None:
    diffusion, steps = process("flow", "flow"), list[tuple[int, int]]()
    made = diffusion.sample(
        two_humps(diffusion), torch.randn(SHAPE, dtype=torch.float64), None,
        sampler=SamplerConfig(name="euler", steps=20), methods=[told(diffusion, data(), strength=strength, refine=60)],
        callback=lambda step, of, *_: steps.append((step, of)),
    )  # fmt: skip
    count = round(20 * strength)
    assert steps == [(k, count) for k in range(1, count + 1)]
    assert_close(made, data(), within=1e-6)


def test_added_noise_is_that_of_the_path() -> None:
    diffusion = process("edm", "edm")
    sampler = SamplerConfig(name="euler", steps=10)
    noise, times = torch.randn(SHAPE, dtype=torch.float64), diffusion.times(sampler)
    run = Run(None, None, SHAPE, 10, diffusion.path, times=times)
    z = told(diffusion, data(), way="noise", strength=0.4).started(noise, run)
    assert_same(begun(times, 0.4), times[6:])
    assert_close(z, diffusion.q_sample(data(), times[6].repeat(2), noise))


def test_one_clip_is_inverted_once_for_all_rows_and_without_guidance() -> None:
    diffusion, calls = process("linear", "noise"), list[tuple[int, Any]]()

    def network(z: Tensor, t: Tensor, conditions: Any, options: Any = None) -> Tensor:
        calls.append((len(z), conditions))
        return two_humps(diffusion)(z, t, conditions)

    run = Run(network, "asked", (3, *SHAPE[1:]), 6, diffusion.path, times=diffusion.times(SamplerConfig(steps=6)))
    seen = list[tuple[int, int]]()
    method = Inversion(
        clean=data()[:1], conditions="source", diffusion=diffusion, progress=lambda *at: seen.append(at)
    )  # fmt: skip
    run.methods = [method, Guidance(GuidanceConfig(scale=5.0))]
    z = method.started(torch.zeros(run.shape, dtype=torch.float64), run)
    assert calls == [(1, "source")] * 6 and seen == [(k, 6) for k in range(1, 7)]
    assert_same(z[1], z[0])
    assert z.shape == run.shape and not torch.equal(z[0], data()[0])


def test_what_does_not_fit_is_refused() -> None:
    diffusion = process("flow", "flow")
    method = told(diffusion, data())
    run = Run(two_humps(diffusion), None, (3, *SHAPE[1:]), 4, diffusion.path, [method])
    with pytest.raises(InputError, match=r"expected latents of 1 or 3 clips of \(3, 2, 4, 4\), got \(2, 3, 2, 4, 4\)"):
        method.check(run)
    run.shape, run.methods = SHAPE, [method, *build({"noise": {"kind": "same"}})]
    with pytest.raises(InputError, match="takes the place of that of NoisePolicy"):
        method.check(run)
    told(diffusion, data(), way="noise", strength=0.5).check(run)  # noise is added, and may be shared
    with pytest.raises(ValueError, match="refine is for way invert"):
        InversionConfig(way="noise", refine=2)
