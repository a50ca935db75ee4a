"""Work in fixed groups by processes of this machine: one that dies is begun again, and what kills three is listed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from kinolab.contracts.events import Events

Piece = TypeVar("Piece")
Result = TypeVar("Result")
TRIES = 3
"""Processes that a single piece may end before it is given up."""
AHEAD = 2
"""Groups per process that are handed out at once, so that none waits."""


def run_groups(
    work: Callable[[list[Piece]], list[Result]],
    groups: Sequence[list[Piece]],
    workers: int,
    died: Callable[[Piece], Result],
    events: Events,
) -> Iterator[list[Result]]:
    """The results of each group, as they come; ends early, between two groups, where that is asked.

    Args:
        work: a function of a module, with what it needs; called with a group in another process, or with one worker
            in this one.
        died: what stands for the result of a piece whose process died `TRIES` times.
    """
    if workers == 1:
        for group in groups:
            if events.stopping:
                return
            yield work(group)
        return
    suspects: list[list[Piece]] = []
    left = list(reversed(groups))
    while left and not events.stopping:
        try:
            yield from _with_pool(work, left, workers, suspects, events)
        except BrokenProcessPool:
            continue  # what was at work is among the suspects; the rest goes on in new processes
    for group in suspects:
        if events.stopping:
            return
        yield [result for piece in group for result in _alone(work, piece, died)]


def _with_pool(
    work: Callable[[list[Piece]], list[Result]],
    left: list[list[Piece]],
    workers: int,
    suspects: list[list[Piece]],
    events: Events,
) -> Iterator[list[Result]]:
    """Results of the groups in `left`, taken from its end; those at work when a process dies become `suspects`."""
    busy: dict[Future[list[Result]], list[Piece]] = {}
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            while (left and not events.stopping) or busy:
                while left and len(busy) < AHEAD * workers and not events.stopping:
                    group = left.pop()
                    busy[pool.submit(work, group)] = group
                for future in wait(busy, return_when=FIRST_COMPLETED).done:
                    found = future.result()
                    del busy[future]
                    yield found
        except BrokenProcessPool:
            suspects += busy.values()
            raise
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _alone(
    work: Callable[[list[Piece]], list[Result]], piece: Piece, died: Callable[[Piece], Result]
) -> Iterator[Result]:
    """The result of one piece in a process of its own."""
    for _ in range(TRIES):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            try:
                yield from pool.submit(work, [piece]).result()
                return
            except BrokenProcessPool:
                continue
    yield died(piece)
