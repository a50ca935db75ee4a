"""Super-resolution without training: the gradient, a Gaussian whose answer is known, and the low-resolution error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kinolab.contracts.method import Denoised, Run
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.errors import InputError
from kinolab.methods import Held, Method, SpatialConfig, SpatialReconstruction, SteeringConfig, Thresholding
from kinolab.methods.spatial import shrink
from tests.closeness import assert_close, assert_within
from tests.methods.test_reconstruction import Nothing

COSINE = Diffusion(DiffusionConfig(schedule="cosine"))
SIDE, FACTOR, T = 4, 2, 400.0
LOW = torch.randn(1, 3, 2, SIDE // FACTOR, SIDE // FACTOR, generator=torch.Generator().manual_seed(5)).double()


def running(shape: tuple[int, ...]) -> Run:
    return Run(None, None, shape, 10, COSINE.path)


@pytest.mark.parametrize("filter", ["area", "bilinear", "bicubic", "nearest"])
def test_the_gradient_goes_through_resize_and_denoiser(filter: Any) -> None:
    """Against differences of a denoiser that is not linear, and of latents that are not pixels."""
    z = torch.randn(1, 3, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(1)).double()
    method = SpatialReconstruction(SpatialConfig(weight=3.0, filter=filter), low=LOW, pixels=lambda x: 2 * x + x**2)

    def inner(z: Tensor, t: float) -> Denoised:
        return Denoised(torch.tanh(z + z.roll(1, -1)))

    found = method.estimate(inner, running(tuple(z.shape)))(z, T).sample
    alpha, step = COSINE.path.scalars(T)[0], 1e-5
    for place in ((0, 0, 0, 0, 0), (0, 2, 1, 3, 2), (0, 1, 0, 1, 3)):
        moved = torch.zeros_like(z)
        moved[place] = step
        errors = [_error(inner(z + sign * moved, T).sample, filter) for sign in (1, -1)]
        slope = (errors[0] - errors[1]) / (2 * step)
        expected = float(inner(z, T).sample[place]) - 3.0 * alpha / 2 * slope
        # the sum is taken in float32, and the slope is a difference of sums
        assert_within(found[place], torch.tensor(expected), 1e-3 * max(abs(expected), 0.1), "of the latents")


def _error(x: Tensor, filter: Any) -> float:
    """The paper's sum, each small pixel counted four times; one pixel makes one latent here."""
    video = 2 * x + x**2
    return float(4 * (LOW - shrink(video, (SIDE // FACTOR,) * 2, filter)).square().sum())


def test_the_guided_estimate_is_the_exact_one_of_a_gaussian() -> None:
    """x ~ N(0, 1), the low-resolution pixel the mean of four: with the weight that its variance asks for, the estimate
    is E[x | z_t, x_low].

    Given z_t, x is N(alpha z, sigma^2) in each pixel, so the mean of four has the variance sigma^2 / 4; the score of
    x_low is then that of the paper's approximation with w_r = 1 / (error's variance) * sigma^2 / alpha^2.
    """
    alpha, _ = COSINE.path.scalars(T)
    z = torch.randn(1, 3, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(2)).double()
    mean = alpha * z
    coarse = F.avg_pool3d(mean, (1, 2, 2))
    # Gaussian conditioning: cov(x, low) / var(low) = (sigma^2 / 4) / (sigma^2 / 4) = 1 in each of the four pixels
    exact = mean + F.interpolate(LOW - coarse, scale_factor=(1, 2, 2), mode="nearest")
    # weight * alpha / 2 * grad, grad = -2 * 4 (counted) * (1 / 4) alpha (low - coarse) = -2 alpha (low - coarse)
    method = SpatialReconstruction(SpatialConfig(weight=1 / alpha**2), low=LOW)
    found = method.estimate(lambda z, t: Denoised(alpha * z), running(tuple(z.shape)))(z, T).sample
    assert_close(found.float(), exact.float())


@pytest.mark.parametrize("filter", ["area", "bicubic"])
def test_the_low_resolution_error_falls_with_the_weight(filter: Any) -> None:
    conditions: Any = Nothing()

    def denoiser(z: Tensor, t: Tensor, conditions: object) -> Tensor:
        alpha, sigma = COSINE.path.scalars(float(t[0]))
        return (z - alpha * alpha * z) / sigma  # the exact noise of x ~ N(0, 1)

    errors = []
    for weight in (None, 0.5, 2.0):
        methods: list[Method] = []
        if weight is not None:
            methods = [SpatialReconstruction(SpatialConfig(weight=weight, filter=filter), low=LOW)]
        noise = torch.randn(1, 3, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(3)).double()
        sampler = SamplerConfig(name="ddim", steps=40)
        made = COSINE.sample(denoiser, noise, conditions, sampler=sampler, methods=methods)
        errors.append(float((shrink(made, (2, 2), filter) - LOW).square().mean()))
    assert errors[1] < 0.3 * errors[0] and errors[2] < 0.05 * errors[0], errors


def test_any_resize_and_free_frames_behind_the_clip() -> None:
    z = torch.randn(2, 3, 4, SIDE, SIDE).double()
    method = SpatialReconstruction(low=LOW, down=lambda video: F.max_pool3d(video, (1, 2, 2)))
    found = method.estimate(lambda z, t: Denoised(z * 1.0), running(tuple(z.shape)))(z, T).sample
    assert torch.equal(found[:, :, 2:], z[:, :, 2:]) and not torch.equal(found[:, :, :2], z[:, :, :2])
    wrapped = Thresholding().estimate(method.estimate(lambda z, t: Denoised(z * 1.0), running((2,))), running((2,)))
    assert float(wrapped(z, T).sample.abs().max()) <= 1.0


def test_a_clip_that_is_larger_than_what_is_made_is_refused() -> None:
    z = torch.zeros(1, 3, 1, SIDE, SIDE).double()
    for low in (LOW, torch.zeros(1, 3, 1, 8, 2)):
        with pytest.raises(InputError, match="as large as what is made"):
            SpatialReconstruction(low=low).estimate(lambda z, t: Denoised(z * 1.0), running((1,)))(z, T)


def test_two_methods_that_follow_a_gradient_go_through_each_other() -> None:
    """Each by its own error of the raw estimate, in either order: both sums are moved as they are alone."""
    z = torch.randn(1, 3, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(4)).double()
    known = torch.zeros(1, 1, 2, SIDE, SIDE, dtype=torch.bool)
    spatial = SpatialReconstruction(SpatialConfig(weight=0.5), low=LOW)
    held = Held(torch.zeros_like(z), known, lambda x: 1.0 - x[:, :, :1])
    temporal = SteeringConfig(weight=0.5).build(held)

    def inner(z: Tensor, t: float) -> Denoised:
        return Denoised(torch.tanh(z))

    def moved(*methods: Method) -> Tensor:
        estimate: Any = inner
        for method in methods:
            estimate = method.estimate(estimate, running(tuple(z.shape)))
        found = estimate(z, T).sample
        assert not found.requires_grad
        return found - inner(z, T).sample

    # The outer one sees the inner one's correction as a constant: its error is that of the corrected estimate.
    both, alone = moved(spatial, temporal), moved(spatial)
    corrected = inner(z, T).sample + alone
    alpha = COSINE.path.scalars(T)[0]
    gradient = torch.zeros_like(z)
    gradient[:, :, :1] = (-2 * (1.0 - corrected[:, :, :1])) * (1 - inner(z, T).sample[:, :, :1].square())
    assert_close(both - alone, -0.5 * alpha / 2 * gradient, within=1e-4)  # squares are summed in float32
    assert bool((moved(temporal, spatial) != both).any())
