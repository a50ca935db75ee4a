"""One process, or torchrun's: DDP, or FSDP2 (`fully_shard`), in plain torch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from kinolab.errors import InputError
from kinolab.runtime import devices

BACKENDS = {"cuda": "nccl", "xpu": "xccl"}
"""How accelerators talk to each other; the processors, and accelerators whose own way is not built in, by gloo."""


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
def join_world(device: torch.device | str = "auto") -> Iterator[World]:
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
        yield World(rank, size, chosen)
    finally:
        if started:
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


def wrap(module: nn.Module, world: World, how: Literal["ddp", "fsdp"]) -> nn.Module:
    """The module ready for `world`: itself for one process, else under DDP, or sharded in place by FSDP2."""
    if world.size == 1:
        return module
    if how == "ddp":
        ids = None if world.device.index is None else [world.device.index]
        unused = bool(getattr(module, "partly_used", False))
        for parameter in module.parameters():
            if parameter.requires_grad and 1 in parameter.shape:
                parameter.register_hook(partial(as_laid_out, strides=parameter.stride()))
        return nn.parallel.DistributedDataParallel(module, device_ids=ids, find_unused_parameters=unused)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # Meant for who changes outputs in place, which nobody does here.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view", category=UserWarning)
    mesh = init_device_mesh(world.device.type, (world.size,))
    lists = getattr(module, "block_lists", ())
    for name, child in list(module.named_modules()):
        if isinstance(child, nn.ModuleList) and name.rsplit(".", 1)[-1] in lists:
            for block in child:
                fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module


def as_laid_out(gradient: Tensor, strides: tuple[int, ...]) -> Tensor:
    """A gradient with its parameter's strides, where they mean the same places in memory; no number moves.

    The gradient of a 1 x 1 convolution on channels last has other strides in its dimensions of size 1, where a stride
    means nothing. Autograd takes them as they are, but DDP compares them, and warns that it might be slow.
    """
    same = all(n == 1 or a == b for n, a, b in zip(gradient.shape, gradient.stride(), strides, strict=True))
    return gradient.as_strided(gradient.shape, strides) if same and gradient.stride() != strides else gradient


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
    """The mean of each number over all processes, in float64, which not every device has."""
    if world.size == 1:
        return values
    found: list[Any] = [None] * world.size
    dist.all_gather_object(found, list(values.values()))
    return {key: sum(numbers) / world.size for key, *numbers in zip(values, *found, strict=True)}


def any_process(flag: bool, world: World) -> bool:
    """Whether the flag is set in any process; all must call it."""
    if world.size == 1:
        return flag
    told = torch.tensor(int(flag), dtype=torch.int32, device=world.device)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return bool(told)


def wait_for_all(world: World) -> None:
    """Return when every process has come here."""
    if world.size > 1:
        dist.barrier()


def full_state(module: nn.Module, world: World) -> dict[str, Tensor]:
    """The module's state dict with every sharded tensor whole; all processes must call it.

    Of several processes the first alone gets it, on the CPU, and the others an empty one: tensors are gathered one
    after the other, so that no device ever holds more than one of them whole.
    """
    state = module.state_dict()
    if world.size == 1:
        return state
    found = {}
    for name, value in state.items():
        gathered = whole(value)
        if world.first:
            found[name] = gathered.detach().cpu()
        del gathered
    return found


def whole(value: Any) -> Any:
    """A DTensor gathered from all processes; any other value as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value
