"""A latent cache in an object store: written to its mirror on this machine, and put there piece by piece.

The order is that of a cache on a disk: a header that says that it is not complete, shards, the index that names them,
and at the end the header that does. So what can be read there is whole at any moment, and an encoding that was cut off
goes on from any machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kinolab.contracts.events import Silent
from kinolab.runtime.remote import Mirror

HEADER, INDEX = "cache.json", "index.jsonl"


class Publishing(Silent):
    """Puts every shard into the store when it is written, and the index behind it.

    shards: whether the shards are still to be put; workers do that themselves.
    """

    def __init__(self, mirror: Mirror, shards: bool) -> None:
        self.mirror, self.shards, self._begun = mirror, shards, False

    def wrote(self, path: Path, what: str = "file") -> None:
        """A shard is whole, and the index names it."""
        if what != "shard":
            return
        if not self._begun:
            self.mirror.put(HEADER)
            self._begun = True
        if self.shards:
            self.mirror.put(f"shards/{path.name}")
        self.mirror.put(INDEX)


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
