"""Distortions: nothing at strength 0, what they say at strength 1, and the same draw at every strength."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.metrics.distortions import DISTORTIONS, blur, distort
from tests.closeness import assert_close


@pytest.fixture
def clip() -> Tensor:
    return torch.rand(3, 16, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def spoiled(clip: Tensor, kind: str, strength: float, seed: int = 0) -> Tensor:
    return distort(clip, kind, strength, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_strength_0_changes_nothing_and_more_changes_more(clip: Tensor, kind: str) -> None:
    assert torch.equal(spoiled(clip, kind, 0.0), clip)
    errors = [float((spoiled(clip, kind, s) - clip).square().mean()) for s in (0.25, 0.5, 1.0)]
    assert 0 < errors[0] < errors[1] < errors[2]
    assert spoiled(clip, kind, 1.0).abs().max() <= 1 and spoiled(clip, kind, 1.0).shape == clip.shape


def test_frames_are_shuffled_and_frozen_whole(clip: Tensor) -> None:
    shuffled = spoiled(clip, "shuffle", 1.0)
    keys = [float(f.sum()) for f in shuffled.unbind(1)]
    assert sorted(keys) == sorted(float(f.sum()) for f in clip.unbind(1)) and keys != sorted(keys)
    half = spoiled(clip, "shuffle", 0.5)
    assert sum(torch.equal(a, b) for a, b in zip(half.unbind(1), clip.unbind(1), strict=True)) >= 8
    assert torch.equal(spoiled(clip, "freeze", 1.0), clip[:, :1].expand_as(clip))
    frozen = spoiled(clip, "freeze", 0.4)  # 6 of 15 later frames repeat the tenth
    assert torch.equal(frozen[:, :10], clip[:, :10]) and bool((frozen[:, 10:] == clip[:, 9:10]).all())


def test_noise_grows_without_a_new_draw() -> None:
    grey = torch.zeros(3, 4, 32, 32)
    weak, strong = spoiled(grey, "noise", 0.1), spoiled(grey, "noise", 0.2)
    assert_close(strong, 2 * weak)
    assert float(weak.std()) == pytest.approx(0.05, rel=0.05)
    assert not torch.equal(weak, spoiled(grey, "noise", 0.1, seed=1))


def test_blur_keeps_what_is_flat_and_spreads_a_dot_as_a_gaussian() -> None:
    flat = torch.full((3, 2, 16, 16), 0.3)
    assert_close(blur(flat, 2.0), flat)
    dot = torch.zeros(3, 1, 33, 33)
    dot[:, :, 16, 16] = 1
    spread = blur(dot, 2.0)[0, 0]
    distance = torch.arange(33) - 16
    assert_close(spread.sum(), torch.tensor(1.0))
    assert float((spread.sum(0) * distance.square()).sum()) == pytest.approx(4.0, rel=0.05), "the variance is sigma^2"
    assert_close(spread, spread.T)


def test_an_unknown_distortion_is_one_line(clip: Tensor) -> None:
    with pytest.raises(InputError, match=r"expected a distortion of blur, noise, shuffle, freeze, got 'smear'"):
        spoiled(clip, "smear", 0.5)
