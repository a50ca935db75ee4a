"""From a data source to each process's micro-batches, in an order that depends on the step alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch.utils.data

from kinolab.contracts.examples import Example, Source
from kinolab.data.order import MixedOrder, ShuffledOrder
from kinolab.errors import InputError
from kinolab.runtime.ranks import Ranks
from kinolab.training.mesh import data_ranks
from kinolab.training.mix import BucketMix
from kinolab.training.settings import TrainingConfig


@dataclass(frozen=True)
class MicroBatch:
    """Positions in the global batch, and the examples at them."""

    positions: list[int]
    examples: list[Example]


def micro_positions(config: TrainingConfig, ranks: Ranks) -> list[list[int]]:
    """The positions of the global batch that each of this process's micro-batches holds."""
    data = data_ranks(config.parallel, ranks)
    if config.batch_size % data.size:
        apart = f"{ranks.size} processes" if data.size == ranks.size else f"{data.size} groups of context processes"
        raise InputError(f"training.batch_size={config.batch_size}: expected a multiple of {apart}")
    local = config.batch_size // data.size
    size = min(config.micro_batch or local, local)
    if local % size:
        raise InputError(f"training.micro_batch={size}: expected a divisor of {local}, the clips per process and step")
    first = data.rank * local
    return [list(range(first + k, first + k + size)) for k in range(0, local, size)]


def spread(length: int, count: int) -> list[int]:
    """`count` indices of range(length), evenly spaced: neighbours often come from one file."""
    count = min(count, length)
    return [k * length // count for k in range(count)]


class _Steps(torch.utils.data.Dataset[list[MicroBatch]]):
    """Item k is all that this process needs in step first_step + k."""

    def __init__(self, source: Source, order: ShuffledOrder, groups: list[list[int]], first: int, steps: int) -> None:
        self.source, self.order, self.groups, self.first, self.steps = source, order, groups, first, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, k: int) -> list[MicroBatch]:
        if k >= self.steps:
            raise IndexError(k)
        indices = self.order.batch_indices(self.first + k)
        self.source.ahead([indices[p] for group in self.groups for p in group])
        return [MicroBatch(group, [self.source[indices[p]] for p in group]) for group in self.groups]


class _MixedSteps(torch.utils.data.Dataset[list[MicroBatch]]):
    """The same where a step's bucket, and with it the number of its clips, is drawn."""

    def __init__(self, source: Source, config: TrainingConfig, ranks: Ranks, mix: BucketMix, first: int) -> None:
        self.source, self.first, self.steps = source, first, max(0, config.steps - first)
        groups = micro_positions(config, ranks)
        # Every bucket has the same number of micro-batches, each as much larger as its clips are smaller.
        self.sizes = [max(1, int(len(groups[0]) * ratio + 1e-9)) for ratio in mix.ratios]
        data = data_ranks(config.parallel, ranks)
        self.mine = range(data.rank * len(groups), (data.rank + 1) * len(groups))
        count = data.size * len(groups)
        self.order = MixedOrder(config.seed, mix.groups, [size * count for size in self.sizes], mix.shares)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, k: int) -> list[MicroBatch]:
        if k >= self.steps:
            raise IndexError(k)
        step = self.first + k
        indices, size = self.order.batch_indices(step), self.sizes[self.order.group(step)]
        groups = [list(range(m * size, (m + 1) * size)) for m in self.mine]
        self.source.ahead([indices[p] for group in groups for p in group])
        return [MicroBatch(group, [self.source[indices[p]] for p in group]) for group in groups]


def _one(items: list[list[MicroBatch]]) -> list[MicroBatch]:
    return items[0]


def micro_batches(
    source: Source,
    config: TrainingConfig,
    first_step: int,
    ranks: Ranks,
    limit_threads: Callable[[int], None] | None = None,
    mix: BucketMix | None = None,
) -> Iterator[list[MicroBatch]]:
    """For each step from `first_step`, this process's micro-batches; `config.workers` processes prepare them ahead.

    With a `mix` the buckets share the steps as it says; else every batch is of one shape and every clip as likely.
    """
    steps: torch.utils.data.Dataset[list[MicroBatch]]
    if mix is not None:
        steps = _MixedSteps(source, config, ranks, mix, first_step)
    else:
        order = ShuffledOrder(len(source), config.seed, config.batch_size, groups=source.groups())
        groups = micro_positions(config, ranks)
        steps = _Steps(source, order, groups, first_step, max(0, config.steps - first_step))
    loader = torch.utils.data.DataLoader(
        steps,
        batch_size=1,
        shuffle=False,
        collate_fn=_one,
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
        worker_init_fn=limit_threads,
    )
    return iter(loader)
