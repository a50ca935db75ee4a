"""The training loss: targets, weights, times, draws, and the errors of impossible configs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab.config import load_config
from kinolab.denoisers.base import Conditions
from kinolab.diffusion import SAMPLERS, Diffusion, DiffusionConfig, SamplerConfig
from kinolab.errors import InputError
from tests.closeness import FLOAT32, assert_close, assert_within

VALID = [
    (schedule, prediction)
    for schedule in ("linear", "cosine", "flow")
    for prediction in ("noise", "sample", "v", "flow")
    if (schedule, prediction) != ("flow", "noise")
]
NOBODY = Conditions()


def latents(batch: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(batch, 2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def config(**values: Any) -> DiffusionConfig:
    return DiffusionConfig(**values)


@pytest.mark.parametrize(("schedule", "prediction"), VALID)
def test_a_perfect_denoiser_has_no_loss_and_gives_back_the_sample(schedule: str, prediction: str) -> None:
    diffusion = Diffusion(config(schedule=schedule, prediction=prediction))
    z0, noise = latents(), latents(seed=1)
    t = torch.tensor([1.0, 200.0, 500.0, 900.0])
    target = diffusion.target(z0, noise, t)
    parts = diffusion.loss(lambda z, t, c: target, z0, NOBODY, t=t, noise=noise)
    assert parts["loss"].shape == (4,) and float(parts["loss"].max()) == 0.0
    z_t = diffusion.q_sample(z0, t, noise)
    assert_close(diffusion.to_sample(target, z_t, t), z0)
    assert_close(diffusion.to_noise(target, z_t, t), noise, within=1e-2)


def test_flow_convention() -> None:
    diffusion = Diffusion(config(schedule="flow", prediction="flow"))
    z0, noise = latents(), latents(seed=1)
    t = torch.full((4,), 250.0)
    assert_close(diffusion.q_sample(z0, t, noise), 0.75 * z0 + 0.25 * noise)
    assert_close(diffusion.target(z0, noise, t), noise - z0)


@pytest.mark.parametrize(("schedule", "prediction"), VALID)
def test_min_snr_weighs_the_error_of_the_clean_sample_alike_for_every_prediction(
    schedule: str, prediction: str
) -> None:
    """weight * error of the prediction = min(SNR, gamma) * error of the clean sample that it stands for."""
    diffusion = Diffusion(config(schedule=schedule, prediction=prediction, loss="min_snr", min_snr_gamma=3.0))
    z0, noise = latents().double(), latents(seed=1).double()
    t = torch.tensor([20.0, 200.0, 500.0, 900.0])
    guess = diffusion.target(z0, noise, t) + latents(seed=2).double()
    loss = diffusion.loss(lambda z, t, c: guess, z0, NOBODY, t=t, noise=noise)["loss"]
    x = diffusion.to_sample(guess, diffusion.q_sample(z0, t, noise), t)
    snr = diffusion.snr(t)
    assert_close(loss, snr.clamp(max=3.0) * (x - z0).square().flatten(1).mean(1))


@pytest.mark.parametrize(
    ("prediction", "weight"),
    [
        ("noise", lambda snr: min(snr, 5.0) / snr),
        ("sample", lambda snr: min(snr, 5.0)),
        ("v", lambda snr: min(snr, 5.0) / (snr + 1.0)),
        ("flow", lambda snr: min(snr, 5.0) / (1.0 + snr**0.5) ** 2),
    ],
)
def test_min_snr_has_the_published_forms(prediction: str, weight: Any) -> None:
    diffusion = Diffusion(config(prediction=prediction, loss="min_snr"))
    for t in (0.0, 100.0, 500.0, 999.0):
        time = torch.tensor([t])
        assert float(diffusion.loss_weight(time)) == pytest.approx(weight(float(diffusion.snr(time))), rel=1e-9)


def test_vb_trains_the_variance_and_leaves_the_mean_alone() -> None:
    diffusion = Diffusion(config(learned_variance=True, loss="mse_vb"))
    output = torch.randn(4, 4, 3, 4, 4, generator=torch.Generator().manual_seed(3)).requires_grad_()
    t = torch.tensor([0.0, 1.0, 500.0, 999.0])
    parts = diffusion.loss(lambda z, t, c: output, latents(), NOBODY, t=t, noise=latents(seed=1))
    assert_close(parts["loss"], parts["mse"] + parts["vb"])
    (gradient,) = torch.autograd.grad(parts["vb"].sum(), output, retain_graph=True)
    assert torch.count_nonzero(gradient[:, :2]) == 0
    assert (gradient[:, 2:].abs().flatten(1).sum(1) > 0).all()


def test_vb_is_least_at_the_true_posterior() -> None:
    """With the true noise predicted, the KL between steps is 0 where the variance is the posterior's."""
    diffusion = Diffusion(config(learned_variance=True, loss="mse_vb"))
    z0, noise, t = latents().double(), latents(seed=1).double(), torch.tensor([5.0, 100.0, 500.0, 999.0])

    def vb(values: float) -> Tensor:
        output = torch.cat([noise, torch.full_like(noise, values)], 1)
        return diffusion.loss(lambda z, t, c: output, z0, NOBODY, t=t, noise=noise)["vb"]

    assert float(vb(-1.0).abs().max()) < 1e-9
    assert (vb(1.0) > vb(-1.0)).all()


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("schedule", ["linear", "flow"])
def test_times_follow_the_distribution(schedule: str, stratified: bool) -> None:
    prediction = "flow" if schedule == "flow" else "noise"
    diffusion = Diffusion(config(schedule=schedule, prediction=prediction, stratified=stratified))
    t = diffusion.draw_times(20_000, torch.Generator().manual_seed(0))
    fractions = torch.histc(t, 10, 0, 1000) / 20_000
    assert_within(fractions, 0.1, 0.01, "of all draws")
    assert (t > 0).all() if schedule == "flow" else torch.equal(t, t.round())


def test_logit_normal_times_and_the_shift() -> None:
    settings = {"schedule": "flow", "prediction": "flow", "time_sampling": "logit_normal", "logit_mean": 0.5}
    plain, shifted = (Diffusion(config(**settings, time_shift=s)) for s in (1.0, 3.0))
    t = plain.draw_times(20_000, torch.Generator().manual_seed(0)).double() / 1000
    logit = torch.logit(t)
    assert float(logit.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(logit.std()) == pytest.approx(1.0, abs=0.03)
    # The shift multiplies the odds of t by s: it adds log s to the logit.
    moved = torch.logit(shifted.draw_times(20_000, torch.Generator().manual_seed(0)).double() / 1000)
    assert_close(moved, logit + math.log(3.0), within=1e-3)


@pytest.mark.parametrize("sampling", ["uniform", "logit_normal", "mode", "cosmap"])
def test_the_shift_by_resolution_acts_on_every_distribution(sampling: str) -> None:
    settings = {"schedule": "flow", "prediction": "flow", "time_sampling": sampling, "time_shift": 1.5}
    plain, fitted = Diffusion(config(**settings)), Diffusion(config(**settings, shift_base=18))
    z0 = torch.zeros(4, 2, 2, 6, 6)  # 72 positions: sqrt(72 / 18) = 2
    times = {}
    for name, diffusion in (("plain", plain), ("fitted", fitted)):
        generator = torch.Generator().manual_seed(3)
        t = diffusion.loss(lambda z, t, c: z, z0, NOBODY, generator=generator)["t"].double() / 1000
        times[name] = torch.logit(t)
    assert_close(times["fitted"], times["plain"] + math.log(2.0), within=FLOAT32)
    assert torch.equal(fitted.draw_times(3, torch.Generator().manual_seed(0), positions=18),
                       plain.draw_times(3, torch.Generator().manual_seed(0)))  # fmt: skip
    with pytest.raises(InputError, match="the size of the latents, which was not given"):
        fitted.draw_times(3)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_takes_shifted_times(name: str) -> None:
    settings = {"schedule": "flow", "prediction": "flow"}
    by_hand, fitted = Diffusion(config(**settings, time_shift=2.0)), Diffusion(config(**settings, shift_base=18))
    sampler, noise = SamplerConfig(name=name, steps=4), latents()[:, :, :2].repeat(1, 1, 1, 3, 3)[..., :6, :6]
    results = []
    for diffusion in (by_hand, fitted):
        generator = torch.Generator().manual_seed(0)
        results.append(
            diffusion.sample(lambda z, t, c: torch.tanh(z), noise, NOBODY, sampler=sampler, generator=generator)
        )
    assert torch.equal(*results)
    assert torch.equal(fitted.times(sampler, positions=72), by_hand.times(sampler))


def test_stratified_times_cover_every_batch_evenly() -> None:
    diffusion = Diffusion(config(stratified=True))
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        t = diffusion.draw_times(10, generator)
        assert torch.bincount((t // 100).long(), minlength=10).tolist() == [1] * 10
    # Every place in the batch still sees all times.
    first = torch.stack([diffusion.draw_times(4, generator)[0] for _ in range(400)])
    assert float(first.mean()) == pytest.approx(500, abs=60)


def test_the_generator_decides_all_draws() -> None:
    diffusion = Diffusion(config(schedule="flow", prediction="flow"))
    seen = []

    def denoiser(z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        seen.append((z, t))
        return torch.zeros_like(z)

    for seed in (1, 1, 2):
        diffusion.loss(denoiser, latents(), NOBODY, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(seen[0][0], seen[1][0]) and torch.equal(seen[0][1], seen[1][1])
    assert not torch.equal(seen[0][1], seen[2][1])


def test_loss_at_fixed_times() -> None:
    """Predicting zero flow costs E|noise - z0|^2 at every time; a denoiser that keeps z costs more where z is large."""
    diffusion = Diffusion(config(schedule="flow", prediction="flow"))
    seen = []

    def denoiser(z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        seen.append(t.tolist())
        return torch.zeros_like(z).requires_grad_()

    z0, noise = latents(), torch.randn(4, 2, 3, 4, 4, generator=torch.Generator().manual_seed(9))
    losses = diffusion.loss_at(denoiser, z0, NOBODY, (0.1, 0.5, 1.0), torch.Generator().manual_seed(9))
    assert seen == [[100.0] * 4, [500.0] * 4, [1000.0] * 4]
    assert list(losses) == [0.1, 0.5, 1.0]
    assert all(v == pytest.approx(float((noise - z0).square().mean()), rel=1e-5) for v in losses.values())
    with pytest.raises(InputError, match="fractions from 0 to 1"):
        diffusion.loss_at(denoiser, z0, NOBODY, [500.0])


def test_fixed_times_of_a_discrete_schedule_include_both_ends() -> None:
    diffusion = Diffusion(config())
    seen = []

    def denoiser(z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        seen.append(float(t[0]))
        return z

    diffusion.loss_at(denoiser, latents(), NOBODY, (0.0, 0.5, 1.0))
    assert seen == [0.0, 500.0, 999.0]


def test_a_denoiser_of_the_wrong_width_is_named() -> None:
    diffusion = Diffusion(config(learned_variance=True, loss="mse_vb"))
    with pytest.raises(InputError, match=r"expected 4 output channels .*got 2"):
        diffusion.loss(lambda z, t, c: z, latents(), NOBODY)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"zero_terminal_snr": True}, "use v, sample or flow"),
        ({"schedule": "flow"}, "use v, sample or flow"),
        ({"schedule": "flow", "prediction": "flow", "zero_terminal_snr": True}, "by itself"),
        ({"schedule": "flow", "prediction": "flow", "num_steps": 50}, "continuous"),
        ({"schedule": "flow", "prediction": "v", "learned_variance": True, "loss": "mse_vb"}, "discrete schedule"),
        ({"time_shift": 3.0}, "flow schedule"),
        ({"learned_variance": True}, "mse_vb or min_snr_vb"),
        ({"loss": "mse_vb"}, "mse, min_snr or l1"),
        ({"max_beta": 0.9999}, "max_beta is for the cosine schedule"),
        ({"shift_base": 64}, "flow schedule"),
        ({"logit_mean": 1.0}, "logit_normal"),
        ({"logit_mean": 1.0, "time_sampling": "mode"}, "logit_normal"),
        ({"mode_scale": 1.0, "time_sampling": "cosmap"}, "time_sampling=mode"),
        ({"mode_scale": 1.8, "time_sampling": "mode"}, "mode_scale"),
        ({"num_steps": 10}, "more than 20 steps"),
        ({"predicton": "v"}, "did you mean 'prediction'"),
    ],
)
def test_impossible_configs_say_what_to_do(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(DiffusionConfig, values)
