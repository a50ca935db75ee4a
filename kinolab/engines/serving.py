"""What a worker does with what it is given: the same in a process of this machine and in an actor of a cluster."""

from __future__ import annotations

from typing import Any, Literal

from kinolab.contracts.engine import Job, Worker
from kinolab.errors import InputError
from kinolab.runtime.lines import one_line

Kind = Literal["ready", "done", "mistake", "failed"]


def started(job: Job, number: int, threads: int) -> tuple[Worker | None, Kind, Any]:
    """A worker of a job, and what is answered.

    threads: that torch computes with.
    """
    try:
        import torch

        torch.set_num_threads(threads)
        return job.worker(number), "ready", None
    except (InputError, OSError) as error:
        return None, "mistake", error
    except Exception as error:
        return None, "failed", _said(error)


def served(worker: Worker, call: str, given: Any) -> tuple[Kind, Any]:
    """What a worker answers to a task, or to a part that is to be probed."""
    try:
        if call == "run":
            return "done", worker.run(given)
        worker.probe(given)
        return "done", None
    except (InputError, OSError) as error:
        return "mistake", error
    except Exception as error:
        return "failed", _said(error)


def _said(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}", 200)
