"""A list of prompts as tasks of an engine: in fixed groups, each of them a request of its own.

The prompts of a group are sampled together, so a video's last bits may depend on its group and on nothing else: the set
is the same, byte for byte, whoever makes which group and however often. The `.json` beside a video has the request of
its group, and `kinolab rerun` makes the video again by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from kinolab.contracts.engine import Done, Engine, Task
from kinolab.contracts.events import Events, Listener, Silent, events_of, proceed
from kinolab.errors import InputError
from kinolab.generation.generate import generate, numbered
from kinolab.generation.provenance import made_by, provenance_path, read_provenance
from kinolab.generation.request import GenerateConfig, load_asked, make_requests, settle
from kinolab.models import VideoModel
from kinolab.runtime import leftovers
from kinolab.runtime.files import scratch
from kinolab.runtime.hashes import json_sha256
from kinolab.runtime.precision import resolve
from kinolab.runtime.reading import through_json

TOGETHER = 8
"""Prompts of a group."""


@dataclass(frozen=True)
class Made:
    """The videos of a list of prompts: their files, how many were made now, and the prompts that were left out."""

    files: tuple[Path, ...]
    made: int
    poison: tuple[str, ...] = ()


def generate_many(
    config: GenerateConfig,
    out: Path,
    *,
    together: int = TOGETHER,
    engine: Engine | None = None,
    events: Listener = None,
) -> Made:
    """Generate the videos of a list of prompts, with numbered names, in groups of `together` prompts.

    Called again, it makes those that are missing, or were made by another request.

    Args:
        config: a request with prompts, whose defaults may still have to be filled in by its model.
        engine: whose workers sample; none = this process.
        events: counts videos; a stopped call keeps those that are there.

    Raises:
        InputError: for a request without prompts, one of a stream or of a given clip, or one that the model can't
            fulfil.
    """
    if not config.prompts:
        raise InputError("expected prompts: a file of them is what is shared out to workers")
    if config.stream or config.given is not None or config.refine is not None or config.source is not None:
        raise InputError("workers share out a list of prompts; a clip that is given, or a stream, is one piece of work")
    settled = "bfloat16" if resolve(config.precision, config.device) == torch.bfloat16 else "float32"
    job = PromptJob(config.model_copy(update={"precision": settled}), out)
    prompts, told = list(range(len(config.prompts))), events_of(events)
    groups = [tuple(prompts[start : start + together]) for start in range(0, len(prompts), together)]
    tasks = [Task(json_sha256([job.asked(group).model_dump(mode="json"), group])[:24], group) for group in groups]
    made, done, files, poison = 0, 0, dict[int, list[Path]](), list[str]()
    for each in _here(job, tasks, told) if engine is None else engine.run(job, tasks, told):
        made += each.value or 0
        done += len(each.task.parts) + len(each.left)
        files |= {prompt: job.targets([prompt]) for prompt in each.task.parts}
        poison += [f"{job.name(left.part)} ({left.why})" for left in each.left]
        for path in (path for prompt in each.task.parts for path in files[prompt]):
            told.wrote(path)
        told.progress(done * config.count, len(prompts) * config.count)
    if engine is not None:
        leftovers.clean(out.parent)  # of workers that were killed
    return Made(tuple(path for prompt in sorted(files) for path in files[prompt]), made, tuple(poison))


def _here(job: PromptJob, tasks: Sequence[Task], events: Events) -> Iterator[Done]:
    """The tasks by this process."""
    worker = job.worker(0)
    for number, task in enumerate(tasks):
        if number:
            proceed(events)
        yield Done(task, worker.run(task))


@dataclass(frozen=True)
class PromptJob:
    """The videos of a list of prompts, as a job of an engine: a part is the number of a prompt."""

    config: GenerateConfig
    out: Path

    @property
    def device(self) -> str:
        """Where it computes."""
        return self.config.device

    def worker(self, number: int) -> PromptWorker:
        """One that loads the model when it is first needed."""
        return PromptWorker(self)

    def name(self, part: int) -> str:
        """The prompt."""
        return repr(self.config.prompts[part])

    def asked(self, prompts: Sequence[int]) -> GenerateConfig:
        """The request of a group."""
        return self.config.model_copy(update={"prompts": tuple(self.config.prompts[k] for k in prompts)})

    def targets(self, prompts: Sequence[int]) -> list[Path]:
        """The videos of prompts."""
        count = self.config.count
        which = [k * count + n for k in prompts for n in range(count)]
        return numbered(self.out, len(self.config.prompts) * count, which)


@dataclass
class PromptWorker:
    """Samples groups of prompts."""

    job: PromptJob

    @cached_property
    def model(self) -> VideoModel:
        """The request's."""
        return load_asked(self.job.config, Silent())

    def run(self, task: Task) -> int:
        """Make the videos of a group, unless they are there; how many were made."""
        asked, targets = self.job.asked(task.parts), self.job.targets(task.parts)
        if self._there(asked, targets):
            return 0
        generate(asked, targets[0], model=self.model, targets=targets)
        return len(targets)

    def probe(self, part: int) -> None:
        """Make the videos of one prompt, and throw them away."""
        with scratch(self.job.out.parent) as room:
            targets = [room / path.name for path in self.job.targets([part])]
            generate(self.job.asked([part]), targets[0], model=self.model, targets=targets)

    def _there(self, asked: GenerateConfig, targets: Sequence[Path]) -> bool:
        """Whether all videos of a group are there, and were made by the same."""
        if not all(path.exists() and provenance_path(path).is_file() for path in targets):
            return False
        settled = settle(asked, self.model)
        settled = settled.model_copy(update={"fps": settled.fps or self.model.output.config.fps})
        for number, (path, request) in enumerate(zip(targets, make_requests(settled), strict=True)):
            try:
                record = read_provenance(path)
            except InputError:
                return False
            made = through_json(made_by(settled, number, request))
            if any(record.get(name) != value for name, value in made.items()):
                return False
        return True
