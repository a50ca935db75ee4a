"""Distances between sets of latents: zero for equal ones, and closed forms."""

from __future__ import annotations

import torch

from kinolab.layers.latent_alignment import energy_distance, moment_distance
from tests.closeness import assert_close, assert_small


def latents(seed: int, batch: int = 4) -> torch.Tensor:
    return torch.randn(batch, 3, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_equal_sets_have_no_distance_whatever_their_order() -> None:
    z = latents(0)
    mixed = z.flip(0, 2, 3, 4)
    assert float(moment_distance(z, mixed)) < 1e-10
    assert_small(energy_distance(z, z, 4096), beside=z)
    assert_small(energy_distance(z, mixed, 4096), beside=z)


def test_a_shift_and_a_scale_have_their_closed_form() -> None:
    z = latents(0)
    assert_close(moment_distance(z + 2.0, z), torch.tensor(4.0))
    deviation = z.transpose(0, 1).flatten(1).std(1, correction=0)
    mean = z.transpose(0, 1).flatten(1).mean(1)
    expected = (((3 - 1) * deviation).square() + ((3 - 1) * mean).square()).mean()
    assert_close(moment_distance(3 * z, z), expected)


def test_the_energy_distance_of_two_points_is_twice_their_distance() -> None:
    x = torch.zeros(1, 4, 2, 2, 2)
    y = torch.zeros(1, 4, 2, 2, 2)
    y[:, 0] = 3.0
    assert_close(energy_distance(x, y, 64), torch.tensor(2 * 3.0 / 2), within=0.001)


def test_the_energy_distance_sees_what_the_moments_do_not() -> None:
    z = latents(0, batch=8)
    signs = torch.where(latents(1, batch=8) > 0, 1.0, -1.0)  # mean 0 and variance 1 too, but two points
    near = float(energy_distance(z, latents(2, batch=8), 512))
    assert float(moment_distance(z, signs)) < 0.01
    assert float(energy_distance(z, signs, 512)) > 4 * abs(near)


def test_gradients_are_finite_where_latents_coincide() -> None:
    z = latents(0).requires_grad_()
    (energy_distance(z, z.detach(), 64) + moment_distance(torch.zeros_like(z) * z, z.detach())).backward()
    assert z.grad is not None and bool(torch.isfinite(z.grad).all())
