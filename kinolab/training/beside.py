"""Checkpoints that are written beside the steps: copied when they are due, and found by a resumed run once whole.

One at a time: the next one waits for the last. A run that is killed in between goes on from the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from kinolab.runtime.precision import NonFiniteError
from kinolab.runtime.ranks import Ranks, keep_groups
from kinolab.training.state import RunState, Unsealed


class Beside:
    """Writes checkpoints of a run's state beside its steps. All processes make one, and call it alike.

    Args:
        wrote: told of each checkpoint when it can be read.
    """

    def __init__(self, state: RunState, folder: Path, keep: int, ranks: Ranks, wrote: Callable[[Path], None]) -> None:
        self.state, self.folder, self.keep, self.ranks, self.wrote = state, folder, keep, ranks, wrote
        self._open: Unsealed | None = None
        self._sealed = False
        self._group: Any = None
        if ranks.size > 1:  # what the writers tell each other must not come between the steps' collectives
            self._group = dist.new_group(backend="gloo")
            keep_groups([self._group], ranks)

    def begin(self, step: int) -> None:
        """Copy the state after so many steps and begin to write it, once the one before is written.

        Raises:
            OSError: where it, or the one before, can't be written.
        """
        self.settle()
        self._open = self.state.begin_saving(self.folder, step, self.keep, self._group)

    def look(self) -> None:
        """The first process seals what all have written by now, without waiting for anything.

        Raises:
            OSError: where it can't be.
        """
        found = self._open
        if self.ranks.first and found is not None and found.writing.done and not self._sealed:
            found.writing.end()
            self._seal(found)

    def settle(self) -> None:
        """Wait until all that was begun is written and sealed.

        Raises:
            OSError: where it can't be; then it is not there at all.
        """
        found = self._open
        if found is None:
            return
        try:
            found.writing.end()
            self.state.agree(lambda: self._seal(found))
        except BaseException:
            found.abandon()
            raise
        finally:
            self._open, self._sealed = None, False

    def _seal(self, found: Unsealed) -> None:
        if not self._sealed:
            found.seal()
            self._sealed = True
            self.wrote(found.final)

    @contextmanager
    def ended(self) -> Iterator[None]:
        """Inside, checkpoints are begun; at the end the last one is settled, or given up where processes are lost."""
        try:
            yield
        except NonFiniteError:  # all processes are there, and what was begun is of a good state
            self.settle()
            raise
        except BaseException:
            if self._open is not None and not self._sealed:
                self._open.abandon()
            raise
        self.settle()
