"""Work in pieces that any number of workers may do: the tasks, who does them, and what becomes of those that fail.

A task stands for a fixed group of clips, and its key for all that its result depends on: whoever does it, and however
often, leaves the same bytes under the same names, so one that is done twice does no harm. An `Engine` has its workers
(processes of this machine, actors of a cluster) do the tasks of a `Job` and gives back each result as it comes; the
caller alone writes what says that it is there (an index, a manifest).

A worker that dies, or raises anything but a person's mistake, is replaced, and its task is done again by another.
Where that happens twice, the clips of the task are tried one by one; one that ends two more workers by itself is left
out and named, and the task is done without it. So a clip that is poison is tried at least three times, by as many
workers.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from kinolab.contracts.events import Events, proceed
from kinolab.errors import InputError

TOGETHER = 2
"""Workers that a task of several clips may end before its clips are tried one by one."""
ALONE = 2
"""Workers that a clip may end by itself after that."""
TRIES = 3
"""Workers that a task of one clip may end."""
UNEXPLAINED = 5
"""Workers that a task may end of which every clip by itself is well."""
STARTS = 3
"""Workers that may end one after the other before any of them did anything."""
LOOK = 0.2
"""Seconds between two looks at whether to stop."""
MOST = 1024
"""Processors, or GPUs, of one worker."""
STARTING = 3600.0
"""Seconds that a worker may start in: a cluster may have to get a machine for it first."""


@dataclass(frozen=True)
class Each:
    """What each worker is given.

    cpus: processors: threads of torch in a process of this machine, what a cluster reserves for an actor; None = the
    engine's own choice. gpus: that a cluster reserves for an actor, also a share of one; None = one where the work
    computes on cuda. seconds: that it may take for one clip before it counts as hanging.
    """

    cpus: int | None = None
    gpus: float | None = None
    seconds: float = 1800.0


@dataclass(frozen=True)
class Task:
    """A fixed group of clips to work on.

    key: of all that the result depends on. parts: one plain value for each clip, which says which it is.
    """

    key: str
    parts: tuple[Any, ...]


@dataclass(frozen=True)
class Left:
    """A clip that was left out: its part of the task, and what happened to those who tried it."""

    part: Any
    why: str


@dataclass(frozen=True)
class Done:
    """A task that is done: without what was left out of it; `value` is None where nothing of it remained."""

    task: Task
    value: Any
    left: tuple[Left, ...] = ()


class Worker(Protocol):
    """What does tasks, in a process of its own; made there once, by `Job.worker`."""

    def run(self, task: Task) -> Any:
        """Do a task; a plain value that says what came of it.

        Raises:
            InputError, OSError: for what ends the whole job, as it would in one process.
        """
        ...

    def probe(self, part: Any) -> None:
        """Go through one clip as `run` would, and keep nothing: to find out which one ends its worker."""
        ...


class Job(Protocol):
    """What workers are to do: a plain value that can be sent to them."""

    def worker(self, number: int) -> Worker:
        """Called in the process of a worker; number: of the worker, from 0, new for each that is begun."""
        ...

    def name(self, part: Any) -> str:
        """What a person knows a clip by."""
        ...


@dataclass(frozen=True)
class Answer:
    """What came back from a worker.

    kind: ready (it can be given its first task), done (with the value), mistake (an error of a person's or of the
    disk, which ends the job), failed (any other error, in words), or dead (in words, how).
    """

    worker: int
    kind: Literal["ready", "done", "mistake", "failed", "dead"]
    value: Any = None


class Crew(ABC):
    """The workers of one job on one engine."""

    @abstractmethod
    def begin(self, number: int) -> None:
        """Begin a worker; `ready` comes when it is there."""

    @abstractmethod
    def give(self, number: int, call: Literal["run", "probe"], given: Any) -> None:
        """Have a worker that waits run a task, or probe a part."""

    @abstractmethod
    def wait(self, seconds: float) -> list[Answer]:
        """What has come back, after so many seconds at most."""

    @abstractmethod
    def dismiss(self, number: int) -> None:
        """End a worker, whatever it is at."""

    @abstractmethod
    def close(self) -> None:
        """End all of them."""


class Engine(ABC):
    """Where workers come from.

    Args:
        workers: how many.
        place: where, as what stands behind the engine's name says (`ray:HOST:PORT`).

    Raises:
        InputError: for a place that the engine doesn't know, or numbers of workers that it can't have.
    """

    def __init__(self, workers: int, place: str = "") -> None:
        self.workers, self.place, self.each = workers, place, Each()

    def give_each(self, each: Each) -> None:
        """Have every worker given so much.

        Raises:
            InputError: for what this engine can't give.
        """
        self.each = each

    @abstractmethod
    def crew(self, job: Job, workers: int) -> Crew:
        """Workers for a job, none of them begun; `workers` at a time."""

    def run(self, job: Job, tasks: Sequence[Task], events: Events) -> Iterator[Done]:
        """Do tasks; each as it is done, in any order. What is at work when it is asked to stop is dropped.

        Raises:
            Stopped: where events ask to stop and something is left.
            InputError: a worker's, and where workers end before they do anything.
            OSError: a worker's.
        """
        if not tasks:
            return
        count = min(self.workers, len(tasks))
        crew = self.crew(job, count)
        try:
            yield from _Foreman(crew, job, tasks, events, count, self.each.seconds).work()
        finally:
            crew.close()


@dataclass
class _State:
    """A task on its way: the workers it ended, and while its clips are tried one by one, what is known of each."""

    task: Task
    ended: list[str] = field(default_factory=list)
    alone: dict[int, list[str]] = field(default_factory=dict)
    """By the number of a part, the workers that it ended by itself."""
    well: set[int] = field(default_factory=set)
    left: tuple[Left, ...] = ()


@dataclass(frozen=True)
class _Piece:
    """What one worker is given: a whole task, or one part of it to be probed."""

    state: _State
    part: int | None = None


class _Foreman:
    """Hands tasks to workers, and settles what becomes of those that end their workers."""

    def __init__(
        self,
        crew: Crew,
        job: Job,
        tasks: Sequence[Task],
        events: Events,
        count: int,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.crew, self.job, self.events, self.count = crew, job, events, count
        self.seconds, self.clock = seconds, clock
        self.waiting = deque(_Piece(_State(task)) for task in tasks)
        self.open = len(tasks)
        self.busy: dict[int, _Piece | None] = {}
        """By worker: what it is at; None = it is starting."""
        self.until: dict[int, float] = {}
        """By worker: the moment after which it counts as hanging."""
        self.idle: list[int] = []
        self.begun = self.failed_starts = 0

    def work(self) -> Iterator[Done]:
        """All tasks, as they are done."""
        while self.open:
            self._hand_out()
            before = self.clock()  # what had come by then is among the answers, however long the caller takes for each
            for answer in self.crew.wait(LOOK):
                yield from self._take(answer)
            for number in [n for n in self.busy if self.until[n] < before]:
                yield from self._hangs(number)
            if self.open:
                proceed(self.events)

    def _hand_out(self) -> None:
        """Give every worker that waits something to do, and begin workers where there is more to do than of them."""
        while self.waiting and self.idle:
            number, piece = self.idle.pop(0), self.waiting.popleft()
            self.busy[number], self.until[number] = piece, self.clock() + self._limit(piece)
            if piece.part is None:
                self.crew.give(number, "run", piece.state.task)
            else:
                self.crew.give(number, "probe", piece.state.task.parts[piece.part])
        starting = sum(piece is None for piece in self.busy.values())
        for _ in range(min(self.count - len(self.busy), len(self.waiting) - starting)):
            self.busy[self.begun], self.until[self.begun] = None, self.clock() + self._limit(None)
            self.crew.begin(self.begun)
            self.begun += 1

    def _limit(self, piece: _Piece | None) -> float:
        """Seconds that a worker may take over a piece, or to start."""
        if piece is None:
            return max(STARTING, self.seconds)
        return self.seconds * (len(piece.state.task.parts) if piece.part is None else 1)

    def _hangs(self, number: int) -> Iterator[Done]:
        """End a worker that gives no answer; its piece is one that ended its worker."""
        piece = self.busy.pop(number)
        self.crew.dismiss(number)
        yield from self._ended(piece, f"no answer for {self._limit(piece):g} s")

    def _take(self, answer: Answer) -> Iterator[Done]:
        """What an answer means."""
        number = answer.worker
        if answer.kind == "mistake":
            raise answer.value
        if number not in self.busy and number not in self.idle:  # of one that was dismissed
            return
        piece = self.busy.pop(number, None)
        if answer.kind == "ready":
            self.idle.append(number)
        elif answer.kind == "done":
            assert piece is not None
            self.failed_starts = 0
            self.idle.append(number)
            yield from self._done(piece, answer.value)
        elif number in self.idle:
            self.idle.remove(number)
        else:
            if answer.kind == "failed":  # it may have left anything behind in its memory
                self.crew.dismiss(number)
            yield from self._ended(piece, str(answer.value))

    def _done(self, piece: _Piece, value: Any) -> Iterator[Done]:
        state = piece.state
        if piece.part is None:
            self.open -= 1
            yield Done(state.task, value, state.left)
            return
        state.well.add(piece.part)
        yield from self._settle(state)

    def _ended(self, piece: _Piece | None, why: str) -> Iterator[Done]:
        """A worker has ended over a piece, or before it was given one."""
        if piece is None:
            self.failed_starts += 1
            if self.failed_starts >= STARTS:
                raise InputError(f"workers end before they do anything ({why}); try one process: --workers 1")
            return
        state = piece.state
        if piece.part is not None:
            state.alone[piece.part].append(why)
            if len(state.alone[piece.part]) < ALONE:
                self.waiting.appendleft(piece)
            yield from self._settle(state)
            return
        state.ended.append(why)
        self.events.note(f"a worker ended ({why}) at {self._names(state.task)}; another one tries again")
        if len(state.task.parts) == 1 and len(state.ended) >= TRIES:
            yield from self._leave(state, [0])
        elif len(state.ended) >= UNEXPLAINED:
            yield from self._leave(state, range(len(state.task.parts)))
        elif len(state.task.parts) > 1 and len(state.ended) == TOGETHER:
            state.alone = {number: [] for number in range(len(state.task.parts))}
            self.waiting.extendleft(_Piece(state, number) for number in reversed(state.alone))
        else:
            self.waiting.appendleft(_Piece(state))

    def _settle(self, state: _State) -> Iterator[Done]:
        """Where all clips of a task were tried: do it again without those that ended their workers."""
        poison = [number for number, ended in state.alone.items() if len(ended) >= ALONE]
        if len(poison) + len(state.well) < len(state.alone):
            return
        yield from self._leave(state, poison)

    def _leave(self, state: _State, numbers: Sequence[int]) -> Iterator[Done]:
        """Leave clips out of a task, which is then done without them."""
        gone = set(numbers)
        reasons = {number: (state.alone.get(number) or state.ended)[-1] for number in gone}
        left = tuple(Left(state.task.parts[number], reasons[number]) for number in sorted(gone))
        parts = tuple(part for number, part in enumerate(state.task.parts) if number not in gone)
        state.left += left
        state.alone, state.well = {}, set()
        if gone:
            state.task, state.ended = replace(state.task, parts=parts), []
        if parts:
            self.waiting.appendleft(_Piece(state))
            return
        self.open -= 1
        yield Done(state.task, None, state.left)

    def _names(self, task: Task) -> str:
        first, more = self.job.name(task.parts[0]), len(task.parts) - 1
        return first + (f" and {more} more" if more else "")
