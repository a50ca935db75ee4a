"""What a timed training is told: where, how long, and in which size."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Task:
    """One process of `benchmarks.gpu.trainings`.

    name: of what comes back. carry, out, state: as of `benchmarks.gpu.running.Place`. begin, until: when to have
    gathered the first clips, and when to be done training (of `time.time`); what is measured at the end comes on top.
    workers: processes that make clips. recipe, overrides: what is trained, where it is not the part's own.
    save_every, look_every: seconds.
    """

    name: str
    carry: Path
    out: Path
    state: Path
    device: str
    begin: float
    until: float
    workers: int
    small: bool
    compiled: bool
    seed: int = 0
    recipe: str = ""
    overrides: tuple[str, ...] = ()
    save_every: float = 60.0
    look_every: float = 150.0

    @property
    def device_name(self) -> str:
        """The card's name."""
        return torch.cuda.get_device_name() if self.device.startswith("cuda") else "CPU"

    def wait(self) -> None:
        """Until the card has done all that was asked of it."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()


def card(name: str) -> torch.device:
    """The device, with TF32 for what is left in float32."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    return torch.device(name)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
