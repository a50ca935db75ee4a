"""Ranks: where this process stands among those of torchrun, and what all of them have to agree on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d
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
    limit: float | None = field(default=None, compare=False)
    """Seconds that it waits for the others in a collective; None = as long as torch's backend does."""

    @property
    def first(self) -> bool:
        """Whether this process writes the files and talks to the person."""
        return self.rank == 0


_LEFT: list[Any] = []
"""Groups that were left. What DDP keeps of one may outlive it here, and the last to hold a group ends its threads: DDP
does so without giving Python's lock back, for which a thread that drops its last tensors waits (torch 2.13)."""


@contextmanager
def join_ranks(device: torch.device | str = "auto", limit: float | None = None) -> Iterator[Ranks]:
    """Join the process group that torchrun announces, if it does; leave it at the end.

    Each of several processes on a machine takes an accelerator of its own, or all of them the CPU. limit: seconds that
    a collective waits for the others before it fails; None = torch's own (10 minutes with NCCL, else 30).

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
        _join(rank, size, chosen, limit)
    try:
        yield Ranks(rank, size, chosen, limit)
    finally:
        if started:
            _LEFT.append(dist.group.WORLD)
            dist.destroy_process_group()


def _join(rank: int, size: int, device: torch.device, limit: float | None) -> None:
    """Make the process group of torchrun's processes."""
    backend = BACKENDS.get(device.type, "gloo")
    backend = backend if dist.is_backend_available(backend) else "gloo"
    own = device if backend != "gloo" else None
    more: dict[str, Any] = {} if limit is None else {"timeout": timedelta(seconds=limit)}
    restart, machines = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), os.environ.get("GROUP_WORLD_SIZE", "1")
    if restart == "0" or machines != "1":
        dist.init_process_group(backend, device_id=own, **more)
        return
    # torchrun keeps one store over its restarts, and with it the addresses of processes that are gone
    # (https://github.com/pytorch/pytorch/issues/135712). Several machines count their restarts differently.
    store, _, _ = next(rendezvous("env://"))
    fresh = dist.PrefixStore(f"restart-{restart}", store)
    dist.init_process_group(backend, store=fresh, rank=rank, world_size=size, device_id=own, **more)


def by_torchrun() -> bool:
    """Whether torchrun started this process, which takes any status but 0 for a failure."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@dataclass(frozen=True)
class Announced:
    """What torchrun says of a process before it joins the others: its rank, that on its machine, and its machine."""

    rank: int
    local_rank: int
    machine: int


def announced() -> Announced:
    """Of this process; of one that torchrun didn't start, the only one."""
    return Announced(*(int(os.environ.get(name, "0")) for name in ("RANK", "LOCAL_RANK", "GROUP_RANK")))


def keep_groups(groups: Iterable[Any], ranks: Ranks) -> None:
    """Groups of this run beside the one of all processes: they get its time limit, and outlive it as it does."""
    for group in groups:
        if ranks.limit is not None:
            distributed_c10d._set_pg_timeout(timedelta(seconds=ranks.limit), group)
        _LEFT.append(group)


class LostRankError(OSError):
    """Another process of the run is gone, or has not answered in time: no fault of this one."""


SILENT = re.compile(r"timed? ?out|connection (closed|reset|refused)|broken pipe|no connection|aborted", re.IGNORECASE)
"""What torch's backends say where another process is gone or doesn't answer."""


@contextmanager
def answered(ranks: Ranks) -> Iterator[None]:
    """What torch raises inside where another process is gone or doesn't answer becomes one line.

    Raises:
        LostRankError: then.
    """
    try:
        yield
    except RuntimeError as error:  # torch's DistBackendError and DistNetworkError are of that kind
        said = str(error)
        if ranks.size == 1 or not SILENT.search(said):
            raise
        waited = re.search(r"waiting (\d+) ?ms|Timeout\(ms\)=(\d+)", said)
        late = "is gone" if waited is None else f"has not answered for {int(waited[1] or waited[2]) / 1000:g} s"
        raise LostRankError(
            f"process {ranks.rank} of {ranks.size} stops: another process {late}; see its own last lines (start again "
            "with --resume auto; training.answer_within sets how long is waited)"
        ) from error


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
