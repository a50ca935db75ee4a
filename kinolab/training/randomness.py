"""Randomness that belongs to a sample, not to a process.

Every draw of a training step comes from a generator seeded by (seed, step, position in the global batch). So a run that
is killed and resumed, or split over more processes or micro-batches, draws the same numbers as one that was not, and a
checkpoint needs no generator state.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kinolab.runtime.hashes import seed_bytes


def sample_seed(*parts: int | str) -> int:
    """A 63-bit seed from any integers and words; the same on every machine and in every process."""
    return int.from_bytes(seed_bytes("/".join(map(str, parts))), "little") >> 1


def generators(seed: int, step: int, positions: Sequence[int], purpose: str) -> list[torch.Generator]:
    """One CPU generator for each position of the global batch."""
    return [torch.Generator().manual_seed(sample_seed(seed, step, p, purpose)) for p in positions]


def normal(shape: Sequence[int], sources: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise (len(sources), *shape), each row from its own generator."""
    return torch.stack([torch.randn(tuple(shape), generator=g) for g in sources])
