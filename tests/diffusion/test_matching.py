"""The gradient of distribution matching, against scores and the KL divergence of two Gaussians."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kinolab.diffusion import Diffusion, DiffusionConfig
from kinolab.diffusion.matching import matching_gradient, matching_loss
from tests.closeness import assert_close, assert_same


def batch(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 2, 2, 2, 2, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("config", [
    DiffusionConfig(), DiffusionConfig(schedule="flow", prediction="flow"),
    DiffusionConfig(schedule="edm", prediction="v"),
])  # fmt: skip
def test_it_is_the_difference_of_scores_with_the_papers_weight(config: DiffusionConfig) -> None:
    """DMD, eq. 7 and 8: w_t alpha_t (s_fake - s_real), w_t = sigma_t^2 / alpha_t * C S / || x_real - x ||_1, over the
    factor alpha_t of the chain rule."""
    path = Diffusion(config).path
    alpha, sigma = path.alpha_sigma(path.at_fraction(torch.tensor([0.3, 0.5, 0.9])))
    alpha, sigma = (v.reshape(3, 1, 1, 1, 1) for v in (alpha, sigma))
    x, real, fake, noise = (batch(seed) for seed in range(4))
    z = alpha * x + sigma * noise
    scores = [(alpha * estimate - z) / sigma**2 for estimate in (fake, real)]
    norm = (x - real).abs().sum((1, 2, 3, 4), keepdim=True) / x[0].numel()
    expected = sigma**2 / alpha / norm * (scores[0] - scores[1])
    assert_close(matching_gradient(x, real, fake), expected, within=1e-9)


def test_the_loss_has_that_gradient() -> None:
    x, real, fake = batch(0).requires_grad_(), batch(1), batch(2)
    loss = matching_loss(x, real, fake)
    [gradient] = torch.autograd.grad(loss.sum(), x)
    expected = matching_gradient(x.detach(), real, fake)
    assert_close(gradient, expected / x[0].numel())
    assert_close(loss.detach(), 0.5 * expected.square().mean((1, 2, 3, 4)))


def test_parts_that_are_not_generated_move_nothing() -> None:
    x, real, fake = batch(0).requires_grad_(), batch(1), batch(2)
    weight = torch.ones(3, 1, 2, 2, 2, dtype=torch.float64)
    weight[:, :, 0] = 0
    [gradient] = torch.autograd.grad(matching_loss(x, real, fake, weight).sum(), x)
    assert_same(gradient[:, :, 0], torch.zeros_like(gradient[:, :, 0]))
    assert bool((gradient[:, :, 1] != 0).all())


def test_a_sample_that_the_teacher_leaves_alone_stays() -> None:
    x = batch(0)
    assert_same(matching_gradient(x, x, x), torch.zeros_like(x))
    assert_same(matching_gradient(x, batch(1), batch(1)), torch.zeros_like(x))


def test_following_it_moves_a_gaussian_onto_another() -> None:
    """With both best denoisers known, samples that follow the gradient come to the teacher's mean and deviation."""
    path = Diffusion(DiffusionConfig(schedule="flow", prediction="flow")).path
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1000, 1, 1, 1, 1, dtype=torch.float64, generator=generator)
    mean, log_std = torch.tensor(-1.0).double().requires_grad_(), torch.tensor(0.5).double().requires_grad_()
    optimizer = torch.optim.Adam([mean, log_std], lr=0.02)

    def best(z: Tensor, t: float, m: float, s: float) -> Tensor:
        alpha, sigma = path.scalars(t)
        return m + s**2 * alpha / (alpha**2 * s**2 + sigma**2) * (z - alpha * m)

    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.04 * (1 - step / 300)
        t = 20 + 960 * float(torch.rand((), generator=generator))
        alpha, sigma = path.scalars(t)
        x = mean + log_std.exp() * noise
        z = (alpha * x + sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)).detach()
        real, fake = best(z, t, 0.7, 0.4), best(z, t, float(mean.detach()), float(log_std.detach().exp()))
        optimizer.zero_grad()
        matching_loss(x, real, fake).mean().backward()
        optimizer.step()
    assert float(mean.detach()) == pytest.approx(0.7, abs=0.03)
    assert float(log_std.detach().exp()) == pytest.approx(0.4, abs=0.03)
