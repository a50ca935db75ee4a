"""A latent cache in an object store: written to its mirror on this machine, and put there piece by piece.

The order is that of a cache on a disk: a header that says that it is not complete, shards, the index that names them,
and at the end the header that does. So what can be read there is whole at any moment, and an encoding that was cut off
goes on from any machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kinolab.contracts.events import Silent
from kinolab.runtime.remote import Mirror

HEADER, INDEX = "cache.json", "index.jsonl"
SHORT = 2**20
"""Bytes up to which an index is put with every shard."""
OFTEN = 60.0
"""Seconds after which a longer one is put: as much work is lost where an encoding is cut off."""


class Publishing(Silent):
    """Puts every shard into the store when it is written, and the index behind it: a long one not with each of them.

    shards: whether the shards are still to be put; workers do that themselves.
    """

    def __init__(self, mirror: Mirror, shards: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.mirror, self.shards, self.clock, self._begun = mirror, shards, clock, False
        self._last = clock()

    def wrote(self, path: Path, what: str = "file") -> None:
        """A shard is whole, and the index names it."""
        if what != "shard":
            return
        if not self._begun:
            self.mirror.put(HEADER)
            self._begun = True
        if self.shards:
            self.mirror.put(f"shards/{path.name}")
        if (self.mirror.path / INDEX).stat().st_size < SHORT or self.clock() - self._last >= OFTEN:
            self.mirror.put(INDEX)
            self._last = self.clock()


@contextmanager
def published(mirror: Mirror, by_workers: bool) -> Iterator[Publishing]:
    """Write a cache into a store: its mirror is brought up to date, what is written there goes to the store.

    by_workers: whether an engine's workers put the shards.

    Raises:
        InputError: where another is writing there, or the store doesn't answer.
    """
    with mirror.writing():
        mirror.fetch(new=True)
        yield Publishing(mirror, not by_workers)
        mirror.publish((INDEX, HEADER))
