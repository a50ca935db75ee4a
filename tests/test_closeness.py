"""The helper that compares numbers can itself be wrong, so it is tested."""

from __future__ import annotations

import math

import pytest
import torch

from tests.closeness import assert_close, assert_small, difference


def test_the_size_of_the_numbers_does_not_matter() -> None:
    x = torch.randn(100)
    for size in (1e-6, 1.0, 1e6):
        assert difference(x * size + 1e-3 * size * x.std(correction=0), x * size) == pytest.approx(1e-3, rel=1e-2)


def test_a_constant_is_compared_with_its_size() -> None:
    assert_close([2.0, 2.0], [2.0 + 1e-6, 2.0])
    assert difference(2.002, 2.0) == pytest.approx(1e-3)
    assert difference([1.0, 1.0 + 1e-9], [1.0, 1.0]) < 1e-8
    assert difference([0.0, 1e-9], [0.0, 0.0]) == math.inf


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1.1])
def test_what_differs_is_refused(wrong: float) -> None:
    with pytest.raises(AssertionError, match="latents: differs by"):
        assert_close([wrong, 2.0], [1.0, 2.0], what="latents")


def test_shapes_must_agree() -> None:
    with pytest.raises(AssertionError, match="shape"):
        assert_close(torch.ones(1, 3), torch.ones(3))


def test_what_should_vanish_is_held_against_something() -> None:
    assert_small([1e-7, -1e-7], beside=[1.0, -1.0])
    with pytest.raises(AssertionError, match=r"is 0\.1 of what"):
        assert_small([0.0, 0.1], beside=[1.0, -1.0])
