"""An engine that works in this process, backwards, and leaves out what it is told to: what callers make of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from kinolab.contracts.engine import Crew, Done, Engine, Job, Left, Task
from kinolab.contracts.events import Events, proceed
from kinolab.runtime.processes import packed, unpacked


class Inside(Engine):
    """poison: whether a part ends every worker."""

    def __init__(self, poison: Callable[[Any], bool] = lambda part: False) -> None:
        super().__init__(2)
        self.poison, self.tasks = poison, list[Task]()

    def crew(self, job: Job, workers: int) -> Crew:
        raise NotImplementedError

    def run(self, job: Job, tasks: Sequence[Task], events: Events) -> Iterator[Done]:
        worker = job.worker(0)
        for task in reversed(tasks):
            self.tasks.append(task)
            left = tuple(Left(part, "killed by SIGSEGV") for part in task.parts if self.poison(part))
            rest = replace(task, parts=tuple(part for part in task.parts if not self.poison(part)))
            yield Done(rest, worker.run(rest) if rest.parts else None, left)
            if len(self.tasks) % len(tasks):
                proceed(events)


class Sent(Inside):
    """Works with what arrives where a job, its tasks and what comes of them are sent."""

    def run(self, job: Job, tasks: Sequence[Task], events: Events) -> Iterator[Done]:
        for done in super().run(unpacked(packed(job)), unpacked(packed(list(tasks))), events):
            yield unpacked(packed(done))
