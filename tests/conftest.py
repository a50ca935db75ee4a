"""Shared fixtures: one thread per test process, so that tests in parallel don't fight over the cores, and no GPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

torch.set_num_threads(1)
# Results are held against the CPU's, so the tests see no GPU even where there is one; some let torch say otherwise.
KINDS: list[Any] = [torch.cuda, torch.xpu, torch.backends.mps]
for kind in KINDS:
    kind.is_available = lambda: False


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Every test starts from the same random state, and leaves none behind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(autouse=True)
def _no_leftover_filters() -> Iterator[None]:
    """A test that changes warning filters doesn't change them for the next one."""
    with warnings.catch_warnings():
        yield
