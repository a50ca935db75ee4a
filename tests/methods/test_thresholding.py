"""Thresholding: values that are in range stay, others come back into it, by what the papers say."""

from __future__ import annotations

import pytest
import torch

from kinolab.methods import ThresholdingConfig
from kinolab.methods.thresholding import thresholded
from tests.closeness import assert_close, assert_same

CLIPS = torch.randn(3, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
CLIPS[1] *= 0.2


@pytest.mark.parametrize("percentile", [0.5, 0.9, 0.995, 1.0])
def test_dynamic_divides_by_the_percentile_of_each_clip(percentile: float) -> None:
    found = thresholded(CLIPS, ThresholdingConfig(percentile=percentile))
    assert float(found.abs().max()) <= 1.0
    for clip, made in zip(CLIPS, found, strict=True):
        s = max(float(torch.quantile(clip.abs().flatten(), percentile)), 1.0)
        assert_close(made, clip.clamp(-s, s) / s)
    assert_same(found[1], CLIPS[1])  # nothing of it was out of range


def test_static_cuts_off_at_the_limit() -> None:
    found = thresholded(CLIPS, ThresholdingConfig(kind="static", limit=0.5))
    assert_same(found, CLIPS.clamp(-0.5, 0.5))


def test_dynamic_keeps_the_order_of_what_static_makes_alike() -> None:
    clip = torch.tensor([0.5, 1.5, 3.0]).view(1, 1, 1, 1, 3)
    static = thresholded(clip, ThresholdingConfig(kind="static")).flatten().tolist()
    dynamic = thresholded(clip, ThresholdingConfig(percentile=1.0)).flatten()
    assert static == [0.5, 1.0, 1.0]
    assert_close(dynamic, torch.tensor([0.5, 1.5, 3.0]) / 3)


def test_a_gradient_goes_through_it() -> None:
    clip = CLIPS[:1].clone().requires_grad_()
    thresholded(clip, ThresholdingConfig()).sum().backward()
    assert clip.grad is not None and bool((clip.grad != 0).any())
