"""Noise policies: what frames share, that each stays unit Gaussian, and that a clip keeps to its seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab.contracts.method import Run
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.errors import InputError
from kinolab.methods import build
from kinolab.models import Request, VideoModel
from tests.closeness import assert_close, assert_same, assert_within
from tests.tiny_model import tiny_model

FLOW = Diffusion(DiffusionConfig(schedule="flow", prediction="flow"))


@pytest.fixture(scope="module")
def model() -> VideoModel:
    return tiny_model(text=False)


def started(noise: Tensor, **fields: Any) -> Tensor:
    [policy] = build({"noise": fields})
    return policy.started(noise, Run(None, None, tuple(noise.shape), 4, FLOW.path))


@pytest.mark.parametrize(
    ("fields", "ratio"),
    [
        ({"kind": "independent"}, lambda apart: 0.0),
        ({"kind": "same"}, lambda apart: 1.0),
        ({"kind": "mixed"}, lambda apart: 0.5),
        ({"kind": "mixed", "alpha": 2.0}, lambda apart: 0.8),
        ({"kind": "progressive"}, lambda apart: 0.5 ** (apart / 2)),
        ({"kind": "progressive", "alpha": 2.0}, lambda apart: 0.8 ** (apart / 2)),
    ],
)
def test_frames_are_unit_gaussian_and_correlated_as_the_policy_says(fields: dict[str, Any], ratio: Any) -> None:
    frames, many = 5, 60_000
    noise = torch.randn(1, 1, frames, many, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = started(noise, **fields)[0, 0, :, :, 0]
    expected = [[1.0 if i == j else ratio(abs(i - j)) for j in range(frames)] for i in range(frames)]
    assert_within(made @ made.T / many, torch.tensor(expected, dtype=torch.float64), 0.025, "of the unit variance")


@pytest.mark.parametrize("kind", ["mixed", "progressive"])
def test_a_large_alpha_comes_to_the_same_noise_for_all_and_a_small_one_to_independent(kind: str) -> None:
    noise = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    alike = started(noise, kind=kind, alpha=1e8)
    assert_close(alike, alike[:, :, :1].expand_as(alike), within=1e-6)
    assert_close(started(noise, kind=kind, alpha=1e-8), noise, within=1e-6)


@pytest.mark.parametrize("kind", ["same", "mixed", "progressive"])
def test_one_frame_has_its_own_noise_whatever_the_policy(kind: str) -> None:
    noise = torch.randn(2, 3, 1, 5, 6, dtype=torch.float64)
    assert_close(started(noise, kind=kind), noise)


@pytest.mark.parametrize("kind", ["same", "mixed", "progressive"])
def test_a_clip_has_the_noise_of_its_seed_whatever_batch_it_is_made_in(model: VideoModel, kind: str) -> None:
    how = SamplerConfig(name="euler", steps=2)
    requests = [Request(seed=seed, label="throw") for seed in (3, 4)]
    methods = build({"noise": {"kind": kind}})
    both = model.sample_latents(requests, sampler=how, methods=methods)
    alone = model.sample_latents(requests[1:], sampler=how, methods=methods)
    assert_close(both[1:], alone, within=1e-4)
    plain = model.sample_latents(requests, sampler=how)
    assert (both - plain).abs().max() > 0.01
    assert_same(model.sample_latents(requests, sampler=how, methods=build({"noise": {"kind": "independent"}})), plain)


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(InputError, match="alpha is for kind mixed or progressive, not same"):
        build({"noise": {"kind": "same", "alpha": 2.0}})
    with pytest.raises(InputError, match=r"methods\.noise.*kind"):
        build({"noise": {}})
