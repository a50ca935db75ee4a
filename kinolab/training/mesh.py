"""How the processes of a run stand to each other: copies of shards of context ranks.

    parallel: {replicate: 2, shard: 4, context: 2}      16 processes

`context` processes compute the same clips together, each some places of every frame (`kinolab.layers.sharing`).
Weights, gradients and optimiser are sharded over `shard` times `context` processes (FSDP2), as context ranks too need
each weight once alone; and there are `replicate` such copies, whose gradients are averaged (HSDP: sharding in a
machine, or a few of them, and copies across). Ranks count context fastest, then shard, then replicate: torchrun numbers
the processes of a machine one after the other, so what talks most stands next to each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from kinolab.config import Config
from kinolab.errors import InputError
from kinolab.layers.sharing import ContextRanks
from kinolab.runtime.ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class MeshConfig(Config):
    """A mesh of processes; their number is the product of all three."""

    replicate: int | None = Field(None, ge=1)
    """Copies of the model, each of shard times context processes; None = as many as there are processes for."""
    shard: int = Field(1, ge=1)
    """Processes with different clips that share one copy."""
    context: int = Field(1, ge=1)
    """Processes that compute the same clips together; a divisor of the number of heads."""


Parallel = Literal["ddp", "fsdp"] | MeshConfig
"""How processes share the work: DDP, FSDP2, or a mesh."""


def layout(how: Parallel, ranks: Ranks) -> MeshConfig:
    """The mesh of the processes that there are; of one alone every mesh is that of one.

    Raises:
        InputError: where the mesh has another number of processes.
    """
    if isinstance(how, str) or ranks.size == 1:
        sharded = how == "fsdp"
        return MeshConfig(replicate=1 if sharded else ranks.size, shard=ranks.size if sharded else 1)
    together = how.shard * how.context
    copies = how.replicate or max(1, ranks.size // together)
    if copies * together != ranks.size:
        rest = "" if how.replicate is None else f"{how.replicate} x "
        raise InputError(
            f"training.parallel: expected {'a multiple of ' if how.replicate is None else ''}{rest}{how.shard} x "
            f"{how.context} processes (replicate x shard x context), and {ranks.size} run; set it to fit, or start "
            "others with torchrun"
        )
    return how.model_copy(update={"replicate": copies})


def data_ranks(how: Parallel, ranks: Ranks) -> Ranks:
    """Where this process stands among those with clips of their own: context ranks have the same."""
    context = layout(how, ranks).context
    return Ranks(ranks.rank // context, ranks.size // context, ranks.device)


def shard_mesh(mesh: MeshConfig, ranks: Ranks) -> DeviceMesh:
    """The mesh that FSDP2 shards over: of one dimension, or of two where there are copies."""
    from torch.distributed.device_mesh import init_device_mesh

    copies, together = mesh.replicate or 1, mesh.shard * mesh.context
    if copies == 1:
        return init_device_mesh(ranks.device.type, (together,))
    return init_device_mesh(ranks.device.type, (copies, together), mesh_dim_names=("replicate", "shard"))


def context_ranks(context: int, ranks: Ranks) -> ContextRanks:
    """The processes that compute clips together with this one; all processes call it."""
    from torch.distributed.device_mesh import init_device_mesh

    shape = (ranks.size // context, context)
    mesh = init_device_mesh(ranks.device.type, shape, mesh_dim_names=("clips", "context"))
    return ContextRanks(mesh.get_group("context"), context, ranks.rank % context)
