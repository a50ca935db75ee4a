"""What an evaluation computes clip by clip, done by an engine's workers: sampling, and putting through an autoencoder.

Every batch is a task of the same clips whoever does it, and what comes of it goes to the metrics in the order of one
process, so the report has the same numbers. A clip that ends every worker ends the evaluation: without it, it would be
one of other clips.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from kinolab.contracts.engine import Engine, Job, Task
from kinolab.contracts.events import Events
from kinolab.errors import InputError
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


def settled(policy: PrecisionPolicy, device: torch.device) -> PrecisionPolicy:
    """The precision as one word for all: workers that measure for themselves could choose differently."""
    return "bfloat16" if resolve(policy, device) == torch.bfloat16 else "float32"


def own_device(device: str, number: int) -> torch.device:
    """The device of a worker: where there are several accelerators, they take them in turn."""
    found = choose(device)
    if found.type == "cuda" and found.index is None:
        return torch.device("cuda", number % torch.cuda.device_count())
    return found
