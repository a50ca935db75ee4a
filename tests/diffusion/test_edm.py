"""EDM as a path: its equations, its noise levels, and Stable Video Diffusion's sampling to the published numbers."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from kinolab.contracts.conditions import Conditions
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.diffusion.conversions import Prediction, convert, from_sample_and_noise
from kinolab.diffusion.edm import EdmConfig, EdmPath, karras_levels, preconditioning
from kinolab.diffusion.samplers import SAMPLERS, Denoised
from kinolab.diffusion.samplers.churn import ChurnConfig, churned
from kinolab.errors import InputError
from kinolab.methods import Guidance, GuidanceConfig
from kinolab.methods.guidance import mix
from tests.closeness import assert_close, assert_same

GOLDEN = Path(__file__).parents[1] / "golden" / "svd_sampling.safetensors"
SVD = DiffusionConfig(schedule="edm", prediction="v")


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    with safe_open(GOLDEN, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        return {**tensors, "config": json.loads(file.metadata()["config"])}


def assert_relative(actual: Tensor, expected: Tensor) -> None:
    """Each value within 1e-5 of its size: they span six orders of magnitude, and their spread says nothing."""
    assert_close((actual / expected.double()).float(), torch.ones_like(expected), within=1e-5)


def test_karras_levels_and_preconditioning_are_the_published_ones(golden: dict[str, Any]) -> None:
    path, steps = EdmPath(), golden["config"]["steps"]
    times = path.times(steps)
    levels = torch.exp(4 * times[:-1])
    assert_relative(levels, golden["sigmas"][:-1])
    assert times[-1] == path.clean_time and golden["sigmas"][-1] == 0
    svd = preconditioning(golden["sigmas"][:-1].double(), v=True)
    for name in ("c_skip", "c_out", "c_in", "c_noise"):
        assert_relative(getattr(svd, name), golden[name])
    assert_relative(times[:-1], golden["timesteps"])
    assert_relative((torch.tensor(700.0).double().square() + 1).sqrt()[None], golden["init_noise_sigma"])
    own = preconditioning(golden["sigmas"][:-1].double(), sigma_data=0.5)
    for name in ("c_skip", "c_out", "c_in"):
        assert_relative(getattr(own, name), golden[f"edm_{name}"])


@pytest.mark.parametrize(("name", "frames"), [("scales_linear", (1.0, 3.0)), ("scales_triangle", (1.0, 3.0, 1.0))])
def test_scales_over_frames(golden: dict[str, Any], name: str, frames: tuple[float, ...]) -> None:
    zero, one = torch.zeros(1, 1, 4, 1, 1), torch.ones(1, 1, 4, 1, 1)
    assert_close(mix([zero], one, GuidanceConfig(frames=frames)).flatten(), golden[name])


@pytest.mark.parametrize(
    ("name", "sampler"), [("diffusers", "euler"), ("euler", "euler"), ("heun", "heun"), ("euler", "ddim")]
)
def test_trajectories(golden: dict[str, Any], name: str, sampler: str) -> None:
    """The network sees the image where it is told of it; ours gets (B, C, F, H, W), theirs (B, F, C, H, W)."""
    image, bias = golden["image"].transpose(1, 2), golden["bias"].view(1, -1, 1, 1, 1)

    def denoiser(z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        null = conditions.null_of("label")
        told = torch.ones(len(z)) if null is None else 1.0 - null.float()
        e = (2 * told - 1).view(-1, 1, 1, 1, 1)
        mixed = torch.einsum("co,bofhw->bcfhw", golden["A"], z)
        return mixed + t.view(-1, 1, 1, 1, 1) * bias + 0.2 * e + 0.1 * image * (e > 0)

    steps: list[Tensor] = []
    diffusion, path = Diffusion(SVD), EdmPath()
    how = SamplerConfig(name=sampler, steps=25)
    times = diffusion.times(how)

    def after(step: int, total: int, z: Tensor, denoised: Tensor) -> None:
        steps.append((z / path.scalars(float(times[step]))[0]).transpose(1, 2))

    diffusion.sample(
        denoiser,
        golden["noise"].transpose(1, 2),
        Conditions(label=torch.zeros(1, dtype=torch.int64)),
        sampler=how,
        methods=[Guidance(GuidanceConfig(frames=(1.0, 3.0)))],
        callback=after,
    )
    expected = golden[f"trajectory_{name}"]
    assert len(steps) == len(expected)
    for ours, theirs in zip(steps, expected, strict=True):
        assert_close(ours, theirs, within=1e-4)


@pytest.mark.parametrize("sigma_data", [1.0, 0.5])
@pytest.mark.parametrize("prediction", ["noise", "sample", "v", "flow", "edm"])
def test_any_prediction_is_eq_7(prediction: Prediction, sigma_data: float) -> None:
    x, e = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    s = torch.tensor([0.01, 0.1, 0.5, 1.0, 9.0, 300.0], dtype=torch.float64)
    path, factors = EdmPath(EdmConfig(sigma_data=sigma_data)), preconditioning(s, sigma_data=sigma_data)
    alpha, sigma = path.alpha_sigma(factors.c_noise)
    y = x + s * e
    z = alpha * x + sigma * e
    assert_close(factors.c_in * y, z, within=1e-12)
    value = from_sample_and_noise(x, e, alpha, sigma, prediction, sigma_data)
    f = convert(value, z, alpha, sigma, prediction, "edm", sigma_data)
    # Eq. 7 solved for the network's target, and back.
    assert_close(f, (x - factors.c_skip * y) / factors.c_out, within=1e-9)
    assert_close(
        factors.c_skip * y + factors.c_out * f, convert(f, z, alpha, sigma, "edm", "sample", sigma_data), 1e-12
    )
    assert_close(convert(f, z, alpha, sigma, "edm", prediction, sigma_data), value, within=1e-8)


def test_f_is_minus_v() -> None:
    x, e = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alpha, sigma = EdmPath().alpha_sigma(torch.tensor(0.3))
    v = from_sample_and_noise(x, e, alpha, sigma, "v")
    assert_close(from_sample_and_noise(x, e, alpha, sigma, "edm"), -v, within=1e-12)


@pytest.mark.parametrize(("prediction", "sigma_data"), [("v", 1.0), ("edm", 0.5)])
def test_the_loss_is_edms(prediction: Prediction, sigma_data: float) -> None:
    config = DiffusionConfig(schedule="edm", prediction=prediction, edm=EdmConfig(sigma_data=sigma_data))
    diffusion, generator = Diffusion(config), torch.Generator().manual_seed(0)
    z0, noise = (torch.randn(3, 2, 2, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    s = torch.tensor([0.05, 1.0, 40.0], dtype=torch.float64)
    factors = preconditioning(s, sigma_data=sigma_data, v=prediction == "v")
    output = torch.randn(z0.shape, generator=generator, dtype=torch.float64)
    got = diffusion.loss(lambda z, t, _: output, z0, None, t=factors.c_noise, noise=noise)
    column = s.view(-1, 1, 1, 1, 1)
    y = z0 + column * noise
    d = factors.c_skip.view_as(column) * y + factors.c_out.view_as(column) * output
    expected = factors.weight * (d - z0).square().flatten(1).mean(1)  # lambda(s) || D - x ||^2
    assert_close(got["loss"], expected, within=1e-9)


def test_training_levels_are_log_normal() -> None:
    edm = EdmConfig(p_mean=-1.2, p_std=1.2)
    t = Diffusion(DiffusionConfig(schedule="edm", prediction="v", edm=edm, stratified=True)).draw_times(
        20_000, torch.Generator().manual_seed(0)
    )
    logs = (4 * t.double()).sort().values
    quantiles = torch.tensor([0.05, 0.3, 0.5, 0.8, 0.99], dtype=torch.float64)
    expected = -1.2 + 1.2 * torch.special.ndtri(quantiles)
    assert_close(torch.quantile(logs, quantiles), expected, within=2e-3)


def test_fractions_are_shares_of_the_grid() -> None:
    path = EdmPath()
    times = path.times(11)[:-1]
    assert [path.fraction(float(t)) for t in times] == pytest.approx([k / 10 for k in range(10, -1, -1)], abs=1e-12)
    assert_close(path.at_fraction(torch.linspace(1, 0, 11, dtype=torch.float64)), times, within=1e-12)


def test_data_of_another_deviation_come_back_in_their_own_units() -> None:
    """The best denoiser of N(0.3, 0.5^2): the sample has that deviation, whatever scale the path carries."""
    diffusion = Diffusion(
        DiffusionConfig(schedule="edm", prediction="edm", edm=EdmConfig(sigma_data=0.5, sigma_max=80))
    )

    def denoiser(z: Tensor, t: Tensor, conditions: None) -> Tensor:
        alpha, sigma = diffusion.path.scalars(float(t[0]))
        x = 0.3 + 0.25 * alpha / (alpha**2 * 0.25 + sigma**2) * (z - alpha * 0.3)
        return diffusion.target(x, (z - alpha * x) / sigma, t)

    noise = torch.randn(2000, 1, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    made = diffusion.sample(denoiser, noise, None, sampler=SamplerConfig(name="heun", steps=40))
    assert float(made.mean()) == pytest.approx(0.3 + 0.5 * float(noise.mean()), abs=0.01)
    assert float(made.std()) == pytest.approx(0.5 * float(noise.std()), rel=0.02)


def best(z: Tensor, t: float, path: Any) -> Denoised:
    """E[x | z] of a Gaussian N(0.7, 0.4^2)."""
    alpha, sigma = path.scalars(t)
    return Denoised(0.7 + 0.16 * alpha / (alpha**2 * 0.16 + sigma**2) * (z - alpha * 0.7))


@pytest.mark.parametrize("name", ["euler", "heun"])
@pytest.mark.slow
def test_churn_keeps_the_target_and_is_noise(name: str) -> None:
    diffusion = Diffusion(SVD)
    noise = torch.randn(4000, 1, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def run(seed: int, **churn: float) -> Tensor:
        config = SamplerConfig(name=name, steps=400, churn=ChurnConfig(**churn) if churn else None)
        generator = torch.Generator().manual_seed(seed)
        path, times = diffusion.path, diffusion.times(config)
        denoise = partial(best, path=path)
        return SAMPLERS.get(name).sample(denoise, noise, times, path=path, config=config, generator=generator)

    plain = run(1)
    for made in (plain, run(1, amount=40.0, low=0.05, high=50.0)):
        assert float(made.mean()) == pytest.approx(0.7, abs=0.025)
        assert float(made.std()) == pytest.approx(0.4, rel=0.06)
    assert_same(run(2), plain)
    assert_same(run(2, amount=40.0, low=1e6), plain)  # no level lies there
    assert float((run(1, amount=40.0) - run(2, amount=40.0)).abs().mean()) > 0.1


def test_churn_raises_the_level_as_algorithm_2_says() -> None:
    path, z = EdmPath(), torch.zeros(1, 1, 1, 200, 200, dtype=torch.float64)
    t = math.log(3.0) / 4
    new, there = churned(z, t, path, ChurnConfig(amount=10.0, noise=1.1), 25, torch.Generator().manual_seed(0))
    assert math.exp(4 * there) == pytest.approx(3.0 * 1.4, rel=1e-12)
    added = new / path.scalars(there)[0]  # in y = x + s e
    assert float(added.std()) == pytest.approx(1.1 * math.sqrt(4.2**2 - 3.0**2), rel=0.02)
    _, most = churned(z, t, path, ChurnConfig(amount=1e6), 25, torch.Generator().manual_seed(0))
    assert math.exp(4 * most) == pytest.approx(3.0 * math.sqrt(2), rel=1e-12)


def test_levels_are_even_in_their_root() -> None:
    levels = karras_levels(9, EdmConfig(sigma_min=0.01, sigma_max=80, rho=3))
    assert_close(
        levels.pow(1 / 3).diff(), torch.full((8,), (0.01 ** (1 / 3) - 80 ** (1 / 3)) / 8, dtype=torch.float64), 1e-9
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"schedule": "linear", "edm": {}}, "edm holds the noise levels of the schedule edm, not of linear"),
        ({"schedule": "edm", "zero_terminal_snr": True, "prediction": "v"}, "the schedule edm is continuous"),
        ({"schedule": "edm", "time_sampling": "mode"}, "the schedule edm draws log-normal noise levels"),
        (
            {"schedule": "edm", "edm": {"sigma_min": 3, "sigma_max": 2}},
            "expected sigma_min below sigma_max, got 3 and 2",
        ),
    ],
)
def test_what_does_not_go_together(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DiffusionConfig(**fields)


def test_what_the_path_refuses() -> None:
    with pytest.raises(InputError, match="an EDM schedule has Karras's noise levels"):
        Diffusion(SVD).times(SamplerConfig(spacing="linspace"))
    with pytest.raises(ValueError, match="churn is for the samplers euler and heun, not ddim"):
        SamplerConfig(name="ddim", churn=ChurnConfig(amount=1))
    linear = Diffusion(DiffusionConfig())
    with pytest.raises(InputError, match="churn raises the noise to any level"):
        linear.sample(
            lambda z, t, c: z, (1, 1, 1, 2, 2), None, sampler=SamplerConfig(name="euler", churn=ChurnConfig(amount=1))
        )
