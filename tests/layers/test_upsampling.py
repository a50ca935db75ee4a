"""Doubling and a convolution as one transposed convolution: equal values and gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kinolab.layers.upsampling import double_space, double_space_time
from tests.closeness import assert_close


def test_double_space_equals_nearest_doubling_then_a_convolution_with_gradients() -> None:
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    weight, bias = torch.randn(6, 3, 3, 3, requires_grad=True), torch.randn(6, requires_grad=True)
    ours = double_space(x, weight, bias)
    plain = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)
    assert_close(ours, plain)
    noise = torch.randn_like(plain)
    for a, b in zip(
        torch.autograd.grad(ours, (x, weight, bias), noise),
        torch.autograd.grad(plain, (x, weight, bias), noise),
        strict=True,
    ):
        assert_close(a, b, within=0.001)


def test_double_space_time_equals_repetition_then_a_causal_convolution() -> None:
    x, weight, bias = torch.randn(1, 2, 4, 3, 3), torch.randn(5, 2, 3, 3, 3), torch.randn(5)
    # The frame before, then each frame twice; the first output needs one frame more than is given.
    repeated = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
    plain = F.conv3d(repeated, weight, bias, padding=(0, 1, 1))
    assert_close(double_space_time(x, weight, bias), plain)
