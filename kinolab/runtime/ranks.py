"""Ranks: where this process stands among those of torchrun, and what all of them have to agree on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from kinolab.errors import InputError
from kinolab.runtime import devices

BACKENDS = {"cuda": "nccl", "xpu": "xccl"}
"""How accelerators talk to each other; the processors, and accelerators whose own way is not built in, by gloo."""


@dataclass(frozen=True)
class Ranks:
    """Where this process stands among torchrun's."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this process writes the files and talks to the person."""
        return self.rank == 0


_LEFT: list[Any] = []
"""Groups that were left. What DDP keeps of one may outlive it here, and the last to hold a group ends its threads: DDP
does so without giving Python's lock back, for which a thread that drops its last tensors waits (torch 2.13)."""


@contextmanager
def join_ranks(device: torch.device | str = "auto") -> Iterator[Ranks]:
    """Join the process group that torchrun announces, if it does; leave it at the end.

    Each of several processes on a machine takes an accelerator of its own, or all of them the CPU.

    Raises:
        InputError: for a device that is not there, or not for each process.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    chosen = devices.for_process(device, local_rank, max(local_size, local_rank + 1))
    if chosen.type in ("cuda", "xpu"):
        torch.get_device_module(chosen.type).set_device(chosen)
    if size > 1 and chosen.type == "mps":
        raise InputError("MPS can't share a run among machines: start one process, or take the device cpu")
    started = "RANK" in os.environ and size > 1 and not dist.is_initialized()
    if started:
        _join(rank, size, chosen)
    try:
        yield Ranks(rank, size, chosen)
    finally:
        if started:
            _LEFT.append(dist.group.WORLD)
            dist.destroy_process_group()


def _join(rank: int, size: int, device: torch.device) -> None:
    """Make the process group of torchrun's processes."""
    backend = BACKENDS.get(device.type, "gloo")
    backend = backend if dist.is_backend_available(backend) else "gloo"
    own = device if backend != "gloo" else None
    restart, machines = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), os.environ.get("GROUP_WORLD_SIZE", "1")
    if restart == "0" or machines != "1":
        dist.init_process_group(backend, device_id=own)
        return
    # torchrun keeps one store over its restarts, and with it the addresses of processes that are gone
    # (https://github.com/pytorch/pytorch/issues/135712). Several machines count their restarts differently.
    store, _, _ = next(rendezvous("env://"))
    fresh = dist.PrefixStore(f"restart-{restart}", store)
    dist.init_process_group(backend, store=fresh, rank=rank, world_size=size, device_id=own)


def mean_over_ranks(values: dict[str, float], ranks: Ranks) -> dict[str, float]:
    """The mean of each number over all processes, in float64, which not every device has."""
    if ranks.size == 1:
        return values
    found: list[Any] = [None] * ranks.size
    dist.all_gather_object(found, list(values.values()))
    return {key: sum(numbers) / ranks.size for key, *numbers in zip(values, *found, strict=True)}


def any_rank(flag: bool, ranks: Ranks) -> bool:
    """Whether the flag is set in any process; all must call it."""
    if ranks.size == 1:
        return flag
    told = torch.tensor(int(flag), dtype=torch.int32, device=ranks.device)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return bool(told)


def wait_for_all(ranks: Ranks) -> None:
    """Return when every process has come here."""
    if ranks.size > 1:
        dist.barrier()
