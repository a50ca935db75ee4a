"""A module on several processes: DDP, FSDP2 (`fully_shard`), or a mesh of both with context ranks, in plain torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from kinolab.denoisers.base import Denoiser
from kinolab.errors import InputError
from kinolab.runtime.ranks import Ranks, keep_groups
from kinolab.training.mesh import Parallel, context_ranks, layout, shard_mesh


def wrap(module: nn.Module, ranks: Ranks, how: Parallel) -> nn.Module:
    """The module ready for its processes: itself for one, else under DDP, or sharded in place by FSDP2; its denoisers
    share the places of a clip where a mesh has context ranks.

    Raises:
        InputError: for a mesh of another number of processes, or context ranks of what can't be shared.
    """
    if ranks.size == 1:
        return module
    mesh = layout(how, ranks)
    if mesh.context > 1:
        _share(module, ranks, mesh.context)
    if mesh.shard * mesh.context == 1:
        ids = None if ranks.device.index is None else [ranks.device.index]
        unused = bool(getattr(module, "partly_used", False))
        for parameter in module.parameters():
            if parameter.requires_grad and 1 in parameter.shape:
                parameter.register_hook(partial(as_laid_out, strides=parameter.stride()))
        return nn.parallel.DistributedDataParallel(module, device_ids=ids, find_unused_parameters=unused)
    from torch.distributed.fsdp import fully_shard

    # Meant for who changes outputs in place, which nobody does here.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view", category=UserWarning)
    for parameter in module.parameters():
        if not parameter.is_contiguous():  # a U-Net's kernels lie channels last, which FSDP2 doesn't take
            parameter.data = parameter.data.contiguous()
    among = shard_mesh(mesh, ranks)
    keep_groups(among.get_all_groups(), ranks)
    lists = getattr(module, "block_lists", ())
    for name, child in list(module.named_modules()):
        if isinstance(child, nn.ModuleList) and name.rsplit(".", 1)[-1] in lists:
            for block in child:
                fully_shard(block, mesh=among)
    fully_shard(module, mesh=among)
    return module


def _share(module: nn.Module, ranks: Ranks, context: int) -> None:
    """Have the denoisers in a module compute each clip with the context processes of this one.

    Raises:
        InputError: where there is none, or one that can't.
    """
    found = [inner for inner in module.modules() if isinstance(inner, Denoiser)]
    if not found or not all(inner.shares_places for inner in found):
        what = type(next((inner for inner in found if not inner.shares_places), module)).__name__
        raise InputError(
            f"training.parallel.context={context}: {what} can't be computed by several processes together: expected "
            "latte, vdt, mmdit or a U-Net of images; use shard and replicate alone"
        )
    among = context_ranks(context, ranks)
    keep_groups([among.group], ranks)
    for inner in found:
        inner.among = among


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


def full_state(module: nn.Module, ranks: Ranks) -> dict[str, Tensor]:
    """The module's state dict with every sharded tensor whole; all processes must call it.

    Of several processes the first alone gets it, on the CPU, and the others an empty one: tensors are gathered one
    after the other, so that no device ever holds more than one of them whole.
    """
    state = module.state_dict()
    if ranks.size == 1:
        return state
    found = {}
    for name, value in state.items():
        gathered = whole(value)
        if ranks.first:
            found[name] = gathered.detach().cpu()
        del gathered
    return found


def whole(value: Any) -> Any:
    """A DTensor gathered from all processes; any other value as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value
