"""Where a small run of a card's benchmark works in tests."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.gpu.running import Clock, Place


def small_place(folder: Path) -> Place:
    """On the CPU, in small, with time enough."""
    clock = Clock(1000.0)
    clock.give(1.0)
    return Place(
        torch.device("cpu"), folder / "carry", folder / "out", folder / "state", True, clock, lambda line: None
    )
