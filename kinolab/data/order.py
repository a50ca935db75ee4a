"""The order in which training sees its data, as a pure function of the step.

Nothing but the step number has to be saved for an exact resume, and `world` processes of `batch_size` examples each
see together what one process with `world * batch_size` would see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kinolab.errors import InputError


class ShuffledOrder:
    """Infinite epochs, each a fresh permutation drawn from (seed, epoch).

    Without `groups` the epochs follow each other without a gap: a batch may end one epoch and begin the next, and
    after k epochs every example has been seen exactly k times. With `groups` (lists of indices that may share a
    batch, see `ClipSource.groups`) every batch stays within one group, the batches of all groups are shuffled, and
    the last batch of a group in an epoch is filled up from the group's beginning.

    Args:
        length: number of examples.
        seed: of the permutations.
        batch_size: examples per process and step.
        rank, world: this process and the number of processes.
        groups: a partition of range(length); None where all examples have one shape.

    Raises:
        InputError: where there is nothing to order or a number is out of range.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        groups: Sequence[Sequence[int]] | None = None,
    ) -> None:
        if length < 1:
            raise InputError("expected at least one example to train on, got none")
        if batch_size < 1 or not 0 <= rank < world:
            raise InputError(f"expected batch_size >= 1 and 0 <= rank < world, got {batch_size}, {rank}, {world}")
        if groups is not None and sorted(i for g in groups for i in g) != list(range(length)):
            raise InputError(f"expected groups that hold each of 0..{length - 1} once")
        self.length, self.seed, self.batch_size, self.rank, self.world = length, seed, batch_size, rank, world
        self.groups = [np.asarray(g) for g in groups if len(g)] if groups is not None and len(groups) > 1 else None
        self._epochs: dict[int, np.ndarray] = {}

    @property
    def steps_per_epoch(self) -> float:
        """Steps until every example has been seen once; whole where there are groups."""
        total = self.batch_size * self.world
        if self.groups is None:
            return self.length / total
        return float(sum(-(-len(g) // total) for g in self.groups))

    def batch_indices(self, step: int) -> list[int]:
        """The examples of this process at `step` (0, 1, ...): `batch_size` indices."""
        total = self.batch_size * self.world
        mine = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        if self.groups is not None:
            per_epoch = int(self.steps_per_epoch)
            batch = self._epoch(step // per_epoch)[step % per_epoch]
            return [int(i) for i in batch[mine]]
        first = step * total + mine.start
        return [int(self._epoch(p // self.length)[p % self.length]) for p in range(first, first + self.batch_size)]

    def _epoch(self, epoch: int) -> np.ndarray:
        """The permutation of an epoch: (length,), or (batches, total) with groups. The last few are kept."""
        if epoch not in self._epochs:
            random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, epoch])))
            while len(self._epochs) > 1:
                self._epochs.pop(next(iter(self._epochs)))
            self._epochs[epoch] = self._grouped(random) if self.groups is not None else random.permutation(self.length)
        return self._epochs[epoch]

    def _grouped(self, random: np.random.Generator) -> np.ndarray:
        total = self.batch_size * self.world
        batches = []
        for group in self.groups or []:
            count = -(-len(group) // total) * total
            batches.append(np.resize(random.permutation(group), count).reshape(-1, total))
        return random.permutation(np.concatenate(batches))


class MixedOrder:
    """Batches of one group at a time, which group being drawn at every step by shares that may change with the step.

    Each group runs through its own endless epochs (`ShuffledOrder`) in batches of its own size. A step's batch depends
    on the seed, the sizes and the shares alone, so a resumed run needs nothing but its step.

    Args:
        seed: of the draws and the permutations.
        groups: lists of indices that may share a batch.
        sizes: examples per step of each group.
        shares: steps (N,) -> (N, groups), at least 0 and not all 0: how likely each group is at each step.
    """

    BLOCK = 4096
    """Steps whose groups are drawn together."""

    def __init__(
        self,
        seed: int,
        groups: Sequence[Sequence[int]],
        sizes: Sequence[int],
        shares: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        if not groups or not all(len(g) for g in groups) or len(sizes) != len(groups):
            raise InputError("expected groups that are not empty, and a batch size for each")
        self.seed, self.groups, self.shares = seed, [np.asarray(g) for g in groups], shares
        seeds = [np.random.SeedSequence([seed, 1 + k]).generate_state(1)[0] for k in range(len(groups))]
        self.orders = [ShuffledOrder(len(g), int(s), size) for g, s, size in zip(groups, seeds, sizes, strict=True)]
        self._drawn: list[np.ndarray] = []
        self._before: list[np.ndarray] = [np.zeros(len(groups), np.int64)]

    def group(self, step: int) -> int:
        """Which group the batch of `step` (0, 1, ...) is from."""
        return int(self._block(step // self.BLOCK)[step % self.BLOCK])

    def batch_indices(self, step: int) -> list[int]:
        """The examples at `step`: as many as the group's batch size."""
        block, offset = divmod(step, self.BLOCK)
        drawn = self._block(block)
        group = int(drawn[offset])
        visit = int(self._before[block][group]) + int((drawn[:offset] == group).sum())
        return [int(self.groups[group][i]) for i in self.orders[group].batch_indices(visit)]

    def _block(self, block: int) -> np.ndarray:
        """The groups of a block's steps, (BLOCK,); the blocks before it are drawn too, to count visits."""
        while len(self._drawn) <= block:
            number = len(self._drawn)
            steps = np.arange(number * self.BLOCK, (number + 1) * self.BLOCK)
            shares = np.cumsum(self.shares(steps), axis=1)
            random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, 0, number])))
            at = random.random(self.BLOCK)[:, None] * shares[:, -1:]
            drawn = (shares <= at).sum(1).astype(np.int16)
            self._drawn.append(drawn)
            self._before.append(self._before[-1] + np.bincount(drawn, minlength=len(self.groups)))
        return self._drawn[block]
