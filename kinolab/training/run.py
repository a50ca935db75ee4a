"""Start or resume a run: recipe -> job -> trainer, in a run folder that records all of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from kinolab.config import differences, read_yaml, to_yaml
from kinolab.contracts.events import Listener, events_of
from kinolab.errors import InputError
from kinolab.runtime.devices import announce
from kinolab.runtime.files import remove, write_text
from kinolab.runtime.interrupts import REQUEUE_FILE
from kinolab.runtime.locks import held
from kinolab.runtime.put_back import leads_elsewhere
from kinolab.runtime.ranks import Ranks, answered, join_ranks, wait_for_all
from kinolab.tables import JOBS
from kinolab.training.asking import heard_from_the_start
from kinolab.training.recipe import BaseRecipe, load_recipe
from kinolab.training.state import checkpoints
from kinolab.training.trainer import Job, Trainer

Resume = bool | Literal["auto"]
"""Whether to go on with a run: yes, no, or where there is one."""
PATIENCE = 20.0
"""Seconds that `resume="auto"` waits for a folder whose last trainer was killed: its loaders' processes, which hold the
folder's lock with it, notice after some seconds."""


@dataclass(frozen=True)
class RunReport:
    """What came of a call: the step reached, the recipe's last step, what a resumed run changed, and where it ran."""

    folder: Path
    step: int
    steps: int
    changes: list[str]
    ranks: Ranks = field(default_factory=Ranks)
    signalled: bool = False
    """Whether a signal stopped it before its end."""

    @property
    def finished(self) -> bool:
        """Whether the run reached its last step and wrote its model folder."""
        return self.step >= self.steps


def train(
    recipe: Path | str | None,
    folder: Path,
    overrides: Sequence[str] = (),
    *,
    resume: Resume = False,
    until: int | None = None,
    events: Listener = None,
    requeue: bool = False,
) -> RunReport:
    """Train a recipe in a run folder; with `resume`, go on from the folder's newest checkpoint.

    Without a recipe a resumed run uses the one in its folder. Every setting that differs from the recorded one is
    said. `until` stops early at that step, to be resumed, and so do `events` that ask to stop. With `resume="auto"` a
    folder without a run begins one, so that the same call starts and restarts. `requeue`: SIGUSR1 stops it as SIGTERM
    does, and a run that either stopped leaves a file `requeue` in its folder until it is started again.

    Raises:
        LostRankError: where another process of the run is gone, or hangs for longer than `training.answer_within`.
        InputError: for a bad recipe, a folder that holds a run already (without `resume`), or none (with it), or one
            that another process is training in, or a device that is not there.
    """
    with heard_from_the_start(requeue) as asked:
        config, changes = _settle(recipe, folder, overrides, resume)
        with join_ranks(config.training.device, config.training.answer_within) as ranks, answered(ranks):
            wait_for_all(ranks)  # nobody writes to the folder while another still looks whether it holds a run
            told = events_of(events if ranks.first else None)
            for change in changes:
                told.note(f"changed since the last start: {change}")
            if config.training.threads is not None:
                torch.set_num_threads(config.training.threads)
            several = f"; {ranks.size} processes" if ranks.size > 1 else ""
            told.note(announce(ranks.device, config.training.device) + several)
            torch.manual_seed(config.training.seed)
            job = make_job(config, told)
            with _alone_in(folder, PATIENCE if resume == "auto" else 0.0) if ranks.first else nullcontext():
                if ranks.first:
                    write_text(folder / "recipe.yaml", to_yaml(job.settled(config)))
                leads = ranks.first or leads_elsewhere(folder)
                if leads:
                    remove(folder / REQUEUE_FILE)
                trainer = Trainer(job, config.training, folder, ranks, told, asked)
                step = trainer.run(until)
                if requeue and trainer.signalled and leads:
                    write_text(
                        folder / REQUEUE_FILE, f"stopped by a signal at step {step} of {config.training.steps}\n"
                    )
    return RunReport(folder, step, config.training.steps, changes, ranks, trainer.signalled)


@contextmanager
def _alone_in(folder: Path, patience: float) -> Iterator[None]:
    """Make the run folder and keep other trainers out of it: two would overwrite each other's log and checkpoints.

    Waits up to `patience` seconds for another to let go.
    """
    otherwise = f"{folder}: another process is training this run; stop it, or name another folder"
    deadline = time.monotonic() + patience
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(held(folder / ".lock", otherwise))
                break
            except InputError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.2)
        yield


def _settle(
    recipe: Path | str | None, folder: Path, overrides: Sequence[str], resume: Resume
) -> tuple[BaseRecipe, list[str]]:
    """The recipe to run and how it differs from the one the folder records."""
    recorded = folder / "recipe.yaml"
    if resume not in (True, False, "auto"):
        raise InputError(f"resume={resume!r}: expected True, False or auto")
    if resume == "auto":
        resume = recorded.exists()
    exists = bool(checkpoints(folder / "checkpoints"))
    if exists and not resume:
        raise InputError(f"{folder}: holds a run already; pass --resume to go on with it, or name another folder")
    if resume and not recorded.exists():
        raise InputError(f"{folder}: no run to resume here (no recipe.yaml)")
    if recipe is None and not resume:
        raise InputError("expected a recipe to train, or --resume with the folder of a run")
    config = load_recipe(recipe if recipe is not None else recorded, overrides)
    if not resume:
        return config, []
    former = load_recipe(read_yaml(recorded))
    config = config.resumed(former)
    before = former.model_dump(mode="json")
    changes = list(differences(before, config.model_dump(mode="json")))
    return config, changes


def make_job(config: BaseRecipe, events: Listener = None) -> Job:
    """The job of a recipe: its sources, its model with first weights, its losses."""
    return JOBS.of(config).make(config, events_of(events))
