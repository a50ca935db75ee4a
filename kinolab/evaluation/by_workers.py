"""What an evaluation computes clip by clip, done by an engine's workers: sampling, and putting through an autoencoder.

Every batch is a task of the same clips whoever does it, and what comes of it goes to the metrics in the order of one
process, so the report has the same numbers. A clip that ends every worker ends the evaluation: without it, it would be
one of other clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kinolab.contracts.engine import Engine, Job, Task
from kinolab.contracts.events import Events, Share, Silent
from kinolab.errors import InputError
from kinolab.models import VideoModel
from kinolab.runtime.devices import choose
from kinolab.runtime.precision import PrecisionPolicy, resolve


def groups(count: int, batch: int, first: int = 0) -> list[range]:
    """The numbers of the clips of each batch."""
    return [range(start, min(start + batch, first + count)) for start in range(first, first + count, batch)]


def in_order(engine: Engine, job: Job, parts: Sequence[Sequence[Any]], events: Events) -> Iterator[Any]:
    """What came of each group of parts, in their order; what comes early is held until its turn.

    Raises:
        InputError: for a clip that ended every worker.
        Stopped: where events ask to stop.
    """
    tasks = [Task(f"{number:06d}", tuple(group)) for number, group in enumerate(parts)]
    early, next_up = dict[str, Any](), iter(tasks)
    wanted = next(next_up, None)
    for done in engine.run(job, tasks, events):
        if done.left:
            left = done.left[0]
            raise InputError(f"{job.name(left.part)}: ended every worker that tried it ({left.why})")
        early[done.task.key] = done.value
        while wanted is not None and wanted.key in early:
            yield early.pop(wanted.key)
            wanted = next(next_up, None)


def numbers_of(task: Task) -> range | None:
    """The clips of a task, which are neighbours; None where one was left out of their midst: the evaluation ends."""
    found = range(task.parts[0], task.parts[-1] + 1)
    return found if len(found) == len(task.parts) else None


def settled(policy: PrecisionPolicy, device: torch.device) -> PrecisionPolicy:
    """The precision as one word for all: workers that measure for themselves could choose differently."""
    return "bfloat16" if resolve(policy, device) == torch.bfloat16 else "float32"


def own_device(device: str, number: int) -> torch.device:
    """The device of a worker: where there are several accelerators, they take them in turn."""
    found = choose(device)
    if found.type == "cuda" and found.index is None:
        return torch.device("cuda", number % torch.cuda.device_count())
    return found


Work = Callable[[VideoModel, Any, range, Events], Any]
"""A function of a module that does a batch: a model, what it has to know, the numbers of its clips -> a plain value."""


@dataclass(frozen=True)
class ModelJob:
    """What a model does clip by clip, as a job of an engine: a task is a batch, a part the number of a clip.

    context: what `work` has to know beside the model.
    """

    model: VideoModel
    work: Work
    context: Any

    @property
    def device(self) -> str:
        """Where it computes."""
        return str(self.model.device)

    def worker(self, number: int) -> ModelJob:
        """One whose model is on a device of its own."""
        self.model.to(own_device(self.device, number))
        return self

    @torch.no_grad()
    def run(self, task: Task) -> Any:
        """A batch."""
        numbers = numbers_of(task)
        return None if numbers is None else self.work(self.model, self.context, numbers, Silent())

    def probe(self, part: int) -> None:
        """One clip."""
        self.run(Task("", (part,)))

    def name(self, part: int) -> str:
        """Its number."""
        return f"clip {part}"


def batches(
    job: ModelJob, parts: Sequence[range], engine: Engine | None, events: Events, sizes: Sequence[int] | None = None
) -> Iterator[tuple[range, Any]]:
    """Every batch and what came of it, in order; by this process where there is no engine.

    sizes: clips of each batch, where its numbers are not those of its clips.

    Raises:
        InputError, Stopped: as `in_order`.
    """
    if engine is not None:
        job.model.precision = settled(job.model.precision, job.model.device)
        yield from zip(parts, in_order(engine, job, parts, events), strict=True)
        return
    sizes = [len(numbers) for numbers in parts] if sizes is None else sizes
    done = 0
    for numbers, size in zip(parts, sizes, strict=True):
        # What is done of a batch is told as if it had one clip less: it is whole when the caller has it.
        yield numbers, job.work(job.model, job.context, numbers, Share(events, done, size - 1, sum(sizes)))
        done += size
