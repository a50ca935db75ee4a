"""The training loop, the same for an autoencoder and a denoiser: a `Job` says what a step computes.

The loop owns the optimiser's step, accumulation, clipping, EMA, checkpoints, the log, and stopping at the first
non-finite loss with the last good state kept.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kinolab.contracts.events import Events, Listener, events_of
from kinolab.runtime.interrupts import interruptible
from kinolab.runtime.precision import NonFiniteError, autocast, fast_float32, watch_finite
from kinolab.runtime.ranks import Ranks, any_rank, mean_over_ranks
from kinolab.training.asking import Asked, hearing
from kinolab.training.batches import MicroBatch
from kinolab.training.beside import Beside
from kinolab.training.ema import Ema
from kinolab.training.log import RunLog
from kinolab.training.parallel import no_sync, wrap
from kinolab.training.recipe import BaseRecipe
from kinolab.training.settings import TrainingConfig, learning_rate, make_optimizer
from kinolab.training.state import RunState, checkpoints


@dataclass
class Part:
    """One module that is trained: its own optimiser, an average where it is wanted, and when it steps: from step
    `starts` on, in every `every`-th step (a student, of which a critic takes five steps for each, has every=5).

    frozen_elsewhere: its frozen weights are read from where they came from whenever the run goes on, so that they are
    neither averaged nor saved; their sum is.
    """

    module: nn.Module
    averaged: bool = True
    starts: int = 0
    every: int = 1
    frozen_elsewhere: bool = False
    wrapped: nn.Module = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    ema: Ema | None = field(init=False, default=None)

    def steps_at(self, step: int) -> bool:
        """Whether it steps in a step of the run (counted from 0)."""
        return step >= self.starts and (step - self.starts) % self.every == 0


class Job(ABC):
    """What is trained. `parts` maps names to modules, in the order in which they step; `kept` to others that change as
    the run goes on without a step of their own, so that checkpoints hold what of them is not frozen.

    A job that is read from a recipe names the recipe's class in `Recipe`, and is made by `make`.
    """

    Recipe: ClassVar[type[BaseRecipe]]
    parts: dict[str, Part]
    kept: Mapping[str, nn.Module] = {}

    @classmethod
    def make(cls, recipe: Any, events: Events) -> Job:
        """The job of a recipe of the class `Recipe`: its sources, its modules with first weights, its losses.

        Raises:
            InputError: where the recipe's data, weights and model don't fit each other.
        """
        raise NotImplementedError(f"{cls.__name__} is not made from a recipe")

    def settled(self, recipe: Any) -> Any:
        """The recipe with what the data decided, as a resumed run has to find it."""
        return recipe

    def begin(self, step: int) -> None:  # noqa: B027 - most have nothing to do
        """Called before step `step` (counted from 0), with the state that the step before left, resumed or not."""

    def learning_rate(self, step: int, config: TrainingConfig) -> float:
        """The learning rate of step `step` (counted from 0)."""
        return learning_rate(config, step)

    @abstractmethod
    def batches(self, first_step: int, ranks: Ranks) -> Iterator[list[MicroBatch]]:
        """For each step from `first_step`, this process's micro-batches."""

    @abstractmethod
    def loss(self, name: str, micro_batch: MicroBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        """The mean loss of part `name` over one micro-batch, and numbers for the log."""

    def evaluate(self, ranks: Ranks) -> dict[str, float]:
        """Numbers on held-out data; called with the averages in place."""
        return {}

    def sample(self, folder: Path, step: int, ranks: Ranks) -> None:  # noqa: B027 - a job may have none
        """Write sample videos from fixed seeds; called with the averages in place."""

    @abstractmethod
    def export(self, folder: Path, step: int, ranks: Ranks) -> None:
        """Write the model folder; called with the averages in place."""


class Trainer:
    """Runs a job in a run folder, from its newest checkpoint if there is one."""

    def __init__(
        self,
        job: Job,
        config: TrainingConfig,
        folder: Path,
        ranks: Ranks,
        events: Listener = None,
        asked: Asked | None = None,
    ) -> None:
        """asked: what signals have asked until now, where they were heard before the run."""
        self.job, self.config, self.folder, self.ranks, self.events = job, config, folder, ranks, events_of(events)
        for part in job.parts.values():
            part.module.to(ranks.device)
            part.wrapped = wrap(part.module, ranks, config.parallel)
            if config.compile:
                part.wrapped.compile()
            part.optimizer = make_optimizer(part.wrapped, config)
            part.ema = Ema(part.module, config.ema, frozen=not part.frozen_elsewhere) if part.averaged else None
        for module in job.kept.values():
            module.to(ranks.device)
        self.state = RunState(
            {**{n: p.module for n, p in job.parts.items()}, **job.kept},
            {n: p.optimizer for n, p in job.parts.items()},
            {n: p.ema for n, p in job.parts.items() if p.ema is not None},
            ranks,
            frozen_elsewhere=[
                *(n for n, p in job.parts.items() if p.frozen_elsewhere),
                *(n for n, module in job.kept.items() if not all(p.requires_grad for p in module.parameters())),
            ],
        )
        self.signalled = False
        self.asked = asked if asked is not None else Asked()
        self.beside: Beside | None = None
        if config.checkpoints == "beside":
            self.beside = Beside(self.state, folder / "checkpoints", config.keep, ranks, self._wrote)

    def run(self, until: int | None = None) -> int:
        """Train to step `until` (default: the recipe's) and return the step reached.

        An interrupt (Ctrl-C or SIGTERM), or events that ask to stop, finish the step, save, and return; of several
        processes, whichever got it. Signals may ask for a checkpoint or samples in between (`kinolab.training.asking`).

        Raises:
            NonFiniteError: at the first non-finite loss; names the module; the last checkpoint is kept.
        """
        loaded = self.state.load_newest(self.folder / "checkpoints", self.events.note)
        step = loaded or 0
        last = min(until or self.config.steps, self.config.steps)
        log = RunLog(self.folder, step, self.config.tensorboard, self.events.note) if self.ranks.first else None
        saved = -1 if loaded is None else step
        window: list[dict[str, float]] = []
        try:
            with interruptible(self.asked), hearing(self.asked), self.beside.ended() if self.beside else nullcontext():
                batches = self.job.batches(step, self.ranks)
                if step == 0 and self.config.evaluate_first:
                    self._evaluate(log, step)
                if step == 0 and self.config.sample_first:
                    self._sample(step)
                while step < last and not self._stops():
                    begun = time.perf_counter()
                    numbers = self.train_step(step, next(batches))
                    step += 1
                    window.append({**numbers, "step_seconds": time.perf_counter() - begun})
                    self.events.progress(step, self.config.steps)
                    self.events.losses(step, numbers)
                    window = self._log(log, step, window)
                    saved = self._on_request(log, step, self._milestones(log, step, last, saved))
                    if self.beside is not None:
                        self.beside.look()
                if saved != step:
                    self._save(step, log)
            if step >= self.config.steps:
                self.events.note("writing the model")
                with self._averages():
                    self.job.export(self.folder / "model", step, self.ranks)
                self.events.wrote(self.folder / "model", "model")
        finally:
            if log is not None:
                log.close()
        return step

    def _stops(self) -> bool:
        """Whether any process was asked to stop; `signalled` then says whether a signal asked it."""
        if any_rank(self.asked.end or self.events.stopping, self.ranks):
            self.signalled = any_rank(self.asked.end, self.ranks)
            return True
        return False

    def train_step(self, step: int, micro_batches: Sequence[MicroBatch]) -> dict[str, float]:
        """One step of every part's optimiser (step counts from 0), and the numbers of its losses."""
        numbers: dict[str, float] = {}
        self.job.begin(step)
        rate = self.job.learning_rate(step, self.config)
        for name, part in self.job.parts.items():
            if not part.steps_at(step):
                continue
            part.optimizer.zero_grad(set_to_none=True)
            for k, batch in enumerate(micro_batches):
                with no_sync(part.wrapped, last=k == len(micro_batches) - 1):
                    parts = self._backward(name, batch, step, len(micro_batches))
                for key, value in parts.items():
                    numbers[key] = numbers.get(key, 0.0) + value / len(micro_batches)
            norm = nn.utils.clip_grad_norm_(part.wrapped.parameters(), self.config.clip)
            numbers[f"{name}_grad_norm"] = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
            if not math.isfinite(numbers[f"{name}_grad_norm"]):
                self._fail(f"the gradient of {name} is not finite", name, micro_batches[0], step)
            for group in part.optimizer.param_groups:
                group["lr"] = rate
            with fast_float32(self.ranks.device):
                part.optimizer.step()
            if part.ema is not None:
                part.ema.update(step)
        return numbers

    def _backward(self, name: str, batch: MicroBatch, step: int, count: int) -> dict[str, float]:
        with autocast(self.config.precision, self.ranks.device):
            loss, parts = self.job.loss(name, batch, step)
        if not bool(torch.isfinite(loss)):
            self._fail(f"the loss of {name} is {float(loss.detach())}", name, batch, step)
        with fast_float32(self.ranks.device):
            (loss / count).backward()
        return parts

    def _fail(self, what: str, name: str, batch: MicroBatch, step: int) -> None:
        """Run the step once more with every module watched, to name the first one that breaks; then stop."""
        where = "no module's output; the loss itself or a gradient overflowed"
        try:
            with watch_finite(self.job.parts[name].module), autocast(self.config.precision, self.ranks.device):
                self.job.loss(name, batch, step)
        except NonFiniteError as error:
            where = str(error)
        found = checkpoints(self.folder / "checkpoints")
        kept = f"the last good state is {found[-1]}" if found else "no checkpoint was written yet"
        raise NonFiniteError(
            f"step {step}: {what}; first non-finite: {where}; {kept}. Lower training.learning_rate, or set "
            "training.precision=float32, and resume"
        )

    def _log(self, log: RunLog | None, step: int, window: list[dict[str, float]]) -> list[dict[str, float]]:
        if step % self.config.log_every and step != self.config.steps:
            return window
        keys = dict.fromkeys(k for numbers in window for k in numbers)
        means = {k: sum(n.get(k, 0.0) for n in window) / sum(k in n for n in window) for k in keys}
        means = mean_over_ranks(means, self.ranks)
        means["learning_rate"] = self.job.learning_rate(step - 1, self.config)
        if log is not None:
            log.write(step, "train", means)
        self.events.losses(step, means, "train")
        return []

    def _milestones(self, log: RunLog | None, step: int, last: int, saved: int) -> int:
        c, ends = self.config, step == self.config.steps
        if ends:  # what follows may take longer than many steps, and no step tells of it
            self.events.note("all steps are done: the held-out loss, samples and the last checkpoint follow")
        if step % c.save_every == 0:
            self._save(step, log)
            saved = step
        if step % c.evaluate_every == 0 or ends:
            self._evaluate(log, step)
        if step % c.sample_every == 0 or ends:
            self._sample(step)
        return saved

    def _on_request(self, log: RunLog | None, step: int, saved: int) -> int:
        """Save and sample where somebody asked one of the processes for it; the last step saved."""
        if not any_rank(self.asked.any, self.ranks):
            return saved
        if any_rank(self.asked.take("save"), self.ranks) and saved != step:
            self._save(step, log)
            saved = step
        if any_rank(self.asked.take("sample"), self.ranks):
            self._sample(step)
        return saved

    def _evaluate(self, log: RunLog | None, step: int) -> None:
        with self._averages(), torch.no_grad():
            values = self.job.evaluate(self.ranks)
        if log is not None:
            log.write(step, "heldout", values)
        self.events.losses(step, values, "heldout")

    def _sample(self, step: int) -> None:
        with self._averages(), torch.no_grad():
            self.job.sample(self.folder / "samples", step, self.ranks)
        self.events.wrote(self.folder / "samples", "samples")

    def _save(self, step: int, log: RunLog | None) -> None:
        if log is not None:
            log.flush()  # a checkpoint never knows of steps that its log has lost
        if self.beside is not None:
            self.beside.begin(step)
        else:
            self._wrote(self.state.save(self.folder / "checkpoints", step, self.config.keep))

    def _wrote(self, checkpoint: Path) -> None:
        self.events.wrote(checkpoint, "checkpoint")

    @contextmanager
    def _averages(self) -> Iterator[None]:
        """All averaged modules hold their EMA weights and are in evaluation mode."""
        for part in self.job.parts.values():
            part.module.eval()
        contexts = [p.ema.swapped_in() if p.ema is not None else nullcontext() for p in self.job.parts.values()]
        for context in contexts:
            context.__enter__()
        try:
            yield
        finally:
            for context in contexts:
                context.__exit__(None, None, None)
            for part in self.job.parts.values():
                part.module.train()
