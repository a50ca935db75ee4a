"""One process, or torchrun's: DDP, or FSDP2 (`fully_shard`), in plain torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    """Where this process stands among torchrun's."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this process writes the files and talks to the person."""
        return self.rank == 0


@contextmanager
def join_world() -> Iterator[World]:
    """Join the process group that torchrun announces, if it does; leave it at the end."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    started = "RANK" in os.environ and size > 1 and not dist.is_initialized()
    if started:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(rank, size, device)
    finally:
        if started:
            dist.destroy_process_group()


def wrap(module: nn.Module, world: World, how: Literal["ddp", "fsdp"]) -> nn.Module:
    """The module ready for `world`: itself for one process, else under DDP, or sharded in place by FSDP2."""
    if world.size == 1:
        return module
    if how == "ddp":
        ids = [world.device.index] if world.device.type == "cuda" else None
        unused = bool(getattr(module, "partly_used", False))
        return nn.parallel.DistributedDataParallel(module, device_ids=ids, find_unused_parameters=unused)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for name, child in list(module.named_modules()):
        if isinstance(child, nn.ModuleList) and name.rsplit(".", 1)[-1] in ("blocks", "joint_blocks"):
            for block in child:
                fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module


@contextmanager
def no_sync(module: nn.Module, last: bool) -> Iterator[None]:
    """Skip the gradient exchange in all but the last accumulation step."""
    if isinstance(module, nn.parallel.DistributedDataParallel) and not last:
        with module.no_sync():
            yield
    elif hasattr(module, "set_requires_gradient_sync"):
        module.set_requires_gradient_sync(last)  # type: ignore[operator]
        yield
    else:
        yield


def mean_over_world(values: dict[str, float], world: World) -> dict[str, float]:
    """The mean of each number over all processes."""
    if world.size == 1:
        return values
    packed = torch.tensor(list(values.values()), dtype=torch.float64, device=world.device)
    dist.all_reduce(packed)
    return dict(zip(values, (packed / world.size).tolist(), strict=True))


def full_state(module: nn.Module) -> dict[str, Tensor]:
    """The module's state dict with every sharded tensor whole; all processes must call it."""
    return {k: whole(v) for k, v in module.state_dict().items()}


def whole(value: Any) -> Any:
    """A DTensor gathered from all processes; any other value as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value
