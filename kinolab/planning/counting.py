"""What a step computes and keeps, counted: operations of attention on a processor, bytes for the backward pass."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from kinolab.training.trainer import Job


@contextmanager
def saved_tensors(parameters: Sequence[Tensor]) -> Iterator[dict[int, int]]:
    """Bytes, by storage, of what autograd keeps for the backward pass, the parameters themselves left out."""
    own, kept = {p.untyped_storage().data_ptr() for p in parameters}, dict[int, int]()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def _attention_flops(q: Any, k: Any, v: Any, *args: Any, out_shape: Any = None, **values: Any) -> int:
    """Two products of matrices per head: scores and values."""
    *batch, queries, width = q
    return 2 * math.prod(batch) * queries * k[-2] * (width + v[-1])


def _attention_backward_flops(gradient: Any, q: Any, k: Any, v: Any, *args: Any, **values: Any) -> int:
    """Five products of matrices per head: the scores again, and the gradients of values, scores, queries and keys."""
    *batch, queries, width = q
    return 2 * math.prod(batch) * queries * k[-2] * (3 * width + 2 * v[-1])


ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}
"""Attention on a processor, which torch's own counter does not know."""


def paces(job: Job, first: int, last: int, most: int) -> dict[tuple[str, ...], tuple[int, list[int]]]:
    """The steps of a run from `first` to `last` (not counted), by the parts that step in them, most parts first.

    Of each set of parts, how many steps are theirs and the numbers of the first `most` of them.
    """
    counts, numbers = Counter[tuple[str, ...]](), defaultdict[tuple[str, ...], list[int]](list)
    for step in range(first, last):
        together = tuple(name for name, part in job.parts.items() if part.steps_at(step))
        counts[together] += 1
        if len(numbers[together]) < most:
            numbers[together].append(step)
    return {parts: (counts[parts], numbers[parts]) for parts in sorted(counts, key=len, reverse=True)}
