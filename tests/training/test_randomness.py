"""Draws belong to a sample: to the seed, the step, the place in the batch and the purpose, and to nothing else."""

from __future__ import annotations

from typing import Any

import torch

from kinolab.conditioning.base import uniform
from kinolab.training.randomness import generators, normal, sample_seed


def test_a_seed_is_the_same_on_every_machine_and_fits_63_bits() -> None:
    assert sample_seed(1, 2, 3, "noise") == 8633089142435644996
    assert sample_seed(1, 23) != sample_seed(12, 3), "parts don't run together"
    assert all(0 <= sample_seed(k) < 2**63 for k in range(1000))


def test_every_part_of_a_draw_counts() -> None:
    base: dict[str, Any] = {"seed": 0, "step": 3, "positions": [5], "purpose": "noise"}
    other: list[dict[str, Any]] = [{"seed": 1}, {"step": 4}, {"positions": [6]}, {"purpose": "time"}]
    draws = [float(uniform(generators(**{**base, **change}))) for change in [{}, *other]]
    assert len(set(draws)) == len(draws)
    assert draws[0] == float(uniform(generators(**base)))


def test_a_batch_draws_what_its_samples_draw_alone() -> None:
    whole = normal((2, 3), generators(7, 1, [0, 1, 2, 3], "noise"))
    parts = [normal((2, 3), generators(7, 1, positions, "noise")) for positions in ([0, 1], [2], [3])]
    assert whole.shape == (4, 2, 3) and torch.equal(torch.cat(parts), whole)
    assert not torch.equal(whole[0], whole[1])
    assert uniform(generators(7, 1, [0, 1, 2], "time")).shape == (3,)
