"""What a training run needs, measured on a few of its steps before it starts: memory, disk, time, cost.

The steps are real ones, by the trainer itself, on the recipe's data (on random data of the same shape where that is
missing); nothing is kept of them. A first step with a single clip tells what a clip's activations take; where the whole
batch would not fit into memory it is not tried, and the times are those of a clip times their number. Parts that start
later in a run, such as a discriminator, are measured where they have started.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kinolab import __version__
from kinolab.contracts.events import Events, Listener, events_of, proceed
from kinolab.data.cache import CacheConfig
from kinolab.errors import InputError
from kinolab.planning.cost_report import CostReport, Memory, Once, Phase
from kinolab.planning.counting import ATTENTION, paces, saved_tensors
from kinolab.planning.stand_in import stand_in_job
from kinolab.runtime import devices
from kinolab.runtime.machine import disk_left, folder_size, memory_left, memory_size
from kinolab.runtime.memory import training_memory
from kinolab.runtime.precision import resolve
from kinolab.runtime.ranks import Ranks, join_ranks
from kinolab.training.batches import MicroBatch
from kinolab.training.recipe import AutoencoderRecipe, BaseRecipe, DenoiserRecipe, load_recipe
from kinolab.training.run import make_job
from kinolab.training.trainer import Job, Trainer

HEADROOM = 0.9
"""The share of memory or disk that a run may plan to use."""


def measure_cost(
    recipe: Path | str | dict[str, Any],
    overrides: Sequence[str] = (),
    *,
    steps: int = 3,
    run: Path | None = None,
    price: float | None = None,
    currency: str = "",
    events: Listener = None,
) -> CostReport:
    """Measure a few steps of a recipe in this process, and what else its run does.

    Args:
        recipe: a file, a shipped name or a mapping; `overrides` as for `kinolab train`.
        steps: timed steps of each phase, after one that is not.
        run: the run folder that is meant; it is not made, only its disk is looked at.
        price: per hour of this machine, in any currency.
        events: notes of what is about to happen.

    Raises:
        InputError: for a bad recipe, or no steps to measure.
    """
    if steps < 1:
        raise InputError(f"expected at least 1 step to measure, got {steps}")
    if price is not None and price < 0:
        raise InputError(f"expected a price per hour of at least 0, got {price:g}")
    config = load_recipe(recipe, overrides)
    with join_ranks(config.training.device) as ranks:
        if config.training.threads is not None:
            torch.set_num_threads(config.training.threads)
        torch.manual_seed(config.training.seed)
        devices.reset_peak(ranks.device)
        told = events_of(events)
        told.note(devices.announce(ranks.device, config.training.device))
        measured = _Measured(config, ranks, steps, run or Path("runs") / config.name, told)
        return measured.report(price, currency)


class _Measured:
    """The recipe's job and trainer with what was found out about them."""

    def __init__(self, config: BaseRecipe, ranks: Ranks, steps: int, folder: Path, events: Events) -> None:
        self.config, self.ranks, self.steps, self.folder, self.events = config, ranks, steps, folder, events
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.job: Any
        self.job, self.decodes = self._job()
        self.static = 5 * sum(p.nbytes for p in _parameters(self.job))  # weights, gradients, two moments, average
        left = memory_left(ranks.device)
        self.starts = self.fits = left is None or self.static < HEADROOM * left
        self.phases: list[Phase] = []
        self.flops: float | None = None
        self.activations: int | None = None
        self.evaluation = self.sampling = self.saving = Once()
        if not self.starts:
            self.warnings.append(
                f"memory: weights, gradients, optimiser and average alone take {_gb(self.static)} and {_gb(left or 0)} "
                "are free; nothing was run"
            )
            return
        self.trainer = Trainer(self.job, config.training, folder, ranks)
        self._measure()

    def _job(self) -> tuple[Job, bool]:
        """The recipe's job with random first weights, which cost the same, and whether its latents can be decoded."""
        training = self.config.training
        # Enough steps for what is timed, wherever it begins.
        longer = training.model_copy(update={"steps": training.steps + self.steps + 1})
        changes: dict[str, Any] = {"training": longer}
        if isinstance(self.config, AutoencoderRecipe | DenoiserRecipe) and self.config.initial is not None:
            changes["initial"] = None
        config = self.config.model_copy(update=changes)
        try:
            return make_job(config, self.events), True
        except (InputError, FileNotFoundError) as error:
            if not isinstance(config, AutoencoderRecipe | DenoiserRecipe):
                raise
            job, decodes = stand_in_job(config)
            self.notes.append(f"measured on random data, since: {' '.join(str(error).split())}")
            if not decodes:
                self.notes.append("without the autoencoder: encoding, and decoding of samples, are not measured")
            return job, decodes

    def _measure(self) -> None:
        config = self.config.training
        begins = sorted({p.starts for p in self.job.parts.values() if p.starts < config.steps} | {0})
        for first, last in zip(begins, [*begins[1:], config.steps], strict=True):
            alike = paces(self.job, first, last, self.steps + 1)
            for parts, (count, numbers) in alike.items():
                named = (parts or ("nothing",)) if len(alike) > 1 else ()
                of = f" of {' and '.join(named)}" if named else ""
                self._next(f"steps {first} to {last - 1}{of}: measuring {self.steps}")
                phase = self._phase(numbers)
                self.phases.append(replace(phase, first=first, last=last, steps=count, parts=named))
        self._next("held-out measurement, samples and a checkpoint, once each")
        self.evaluation, self.sampling = self._evaluate(), self._sample()
        self.saving = self._save()

    def _next(self, what: str) -> None:
        """Say what comes; nothing is kept of what was measured where it is asked to stop."""
        proceed(self.events)
        self.events.note(what)

    def _phase(self, numbers: Sequence[int]) -> Phase:
        """Steps of these numbers, which all do the same, timed after one that is not."""
        compiled, first = self.config.training.compile, numbers[0]
        batches = self.job.batches(first, self.ranks)
        began = time.perf_counter()
        micro_batches = next(batches)
        if self.activations is None and not compiled:
            self._one_clip(first, micro_batches)
        clips = sum(len(m.positions) for m in micro_batches)
        run = micro_batches if self.fits else [_last_clip(micro_batches)]
        counted = None if compiled else self._flops(first, run)
        if counted is None:
            self.trainer.train_step(first, run)
        warm = time.perf_counter() - began
        loading, computing = [], []
        for k in range(1, self.steps + 1):
            began = time.perf_counter()
            micro_batches = next(batches)
            loaded = self._now()
            run = micro_batches if self.fits else [_last_clip(micro_batches)]
            self.trainer.train_step(numbers[k % len(numbers)], run)
            computing.append((self._now() - loaded) * (1 if self.fits else clips))
            loading.append(loaded - began)
        flops = None if counted is None else counted * (1 if self.fits else clips)
        return Phase(first, first + 1, tuple(loading), tuple(computing), warm, flops, 1)

    def _now(self) -> float:
        """The clock, once the device has done what was asked of it."""
        devices.synchronize(self.ranks.device)
        return time.perf_counter()

    def _one_clip(self, step: int, micro_batches: Sequence[MicroBatch]) -> None:
        """A step with a single clip: what its activations take, and whether those of all clips of a pass will fit."""
        alone = _last_clip(micro_batches)
        with saved_tensors(_parameters(self.job)) as kept:
            self.trainer.train_step(step, [alone])
        clips = max(len(m.positions) for m in micro_batches)
        self.activations = sum(kept.values()) * clips
        left = memory_left(self.ranks.device)
        self.fits = left is None or self.activations < HEADROOM * left
        if not self.fits:
            self.warnings.append(
                f"memory: the activations of {clips} clips take {_gb(self.activations)} and {_gb(left or 0)} are free: "
                "measured with one clip; set training.micro_batch, or gradient_checkpointing"
            )

    def _flops(self, step: int, micro_batches: Sequence[MicroBatch]) -> float:
        """A step with its floating-point operations counted: products of matrices, convolutions, attention."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
            self.trainer.train_step(step, micro_batches)
        return float(counter.get_total_flops())

    def _evaluate(self) -> Once:
        """The held-out measurement with as many clips as a pass holds, times what the recipe asks for."""
        wanted: int = getattr(self.config, "heldout_clips", 0)
        recipe = self.job.recipe
        if not wanted:  # a job that measures nothing in between
            return Once()
        count = min(wanted, self.config.training.micro_batch or self.config.training.batch_size)
        count = count if self.fits else 1
        self.job.recipe = recipe.model_copy(update={"heldout_clips": count})
        with _evaluating(self.job):
            seconds = self._timed(lambda: self.job.evaluate(self.ranks)) * wanted / count
        self.job.recipe = recipe
        c = self.config.training
        return Once(seconds, 0, _times(c.steps, c.evaluate_every) + c.evaluate_first)

    def _sample(self) -> Once:
        """Sample videos, those of a denoiser with few steps and scaled up; their files count."""
        c = self.config.training
        if not self.decodes:
            return Once()
        times = _times(c.steps, c.sample_every) + c.sample_first
        with tempfile.TemporaryDirectory() as temporary, _evaluating(self.job):
            folder = Path(temporary)
            if not isinstance(self.config, DenoiserRecipe):
                seconds = self._timed(lambda: self.job.sample(folder, 0, self.ranks))
                return Once(seconds, folder_size(folder), times)
            steps, recipe = self.config.samples.sampler.steps, self.job.recipe
            taken = []
            for count in (1, 1, 3):  # the first is not counted
                sampler = self.config.samples.sampler.model_copy(update={"steps": count})
                samples = self.config.samples.model_copy(update={"sampler": sampler})
                self.job.recipe = recipe.model_copy(update={"samples": samples})
                with warnings.catch_warnings():  # a student is asked for other steps than its own: only time counts
                    warnings.simplefilter("ignore")
                    taken.append(self._timed(lambda: self.job.sample(folder, 0, self.ranks)))
            self.job.recipe = recipe
            a_step = max(0.0, taken[2] - taken[1]) / 2
            return Once(taken[1] + (steps - 1) * a_step, folder_size(folder), times)

    def _save(self) -> Once:
        """A checkpoint, written to the system's temporary folder and deleted, where that has room for it."""
        c, size = self.config.training, sum(self._state().values())
        times = _times(c.steps, c.save_every)
        with tempfile.TemporaryDirectory() as temporary:
            if shutil.disk_usage(temporary).free < 2 * size:
                self.notes.append("no room to write a checkpoint on trial: its size is that of what it holds")
                return Once(0.0, size, times)
            seconds = self._timed(lambda: self.trainer.state.save(Path(temporary), 0, 1))
            return Once(seconds, folder_size(Path(temporary)), times)

    def _timed(self, action: Callable[[], object]) -> float:
        began = self._now()
        with torch.no_grad():
            action()
        return self._now() - began

    def _state(self) -> dict[str, int]:
        """Bytes of what a run keeps in memory from step to step."""
        parts = self.job.parts.values()
        trained = _parameters(self.job)
        return {
            "weights": sum(_bytes(p.module.state_dict().values()) for p in parts),
            "gradients": sum(p.nbytes for p in trained),
            "optimizer": sum(_bytes(s.values()) for p in parts for s in p.optimizer.state.values()),
            "average": sum(_bytes(p.ema.shadow.values()) for p in parts if p.ema is not None),
        }

    def _memory(self) -> Memory:
        device = self.ranks.device
        beside = self.job.beside_trained if isinstance(self.config, DenoiserRecipe) else {}
        state = self._state() if self.starts else dict.fromkeys(("weights", "gradients", "optimizer", "average"), 0)
        if not self.starts:
            peak: int | None = self.static
        else:
            peak = training_memory(device)
        if not self.fits and peak is not None and self.activations is not None:
            peak += self.activations
        return Memory(
            peak=peak,
            machine=memory_size(device),
            activations=self.activations,
            frozen=sum(_bytes(module.state_dict().values()) for module in beside.values()),
            beside=tuple(beside),
            **state,
        )

    def report(self, price: float | None, currency: str) -> CostReport:
        """All that was found, with a warning for what will not fit."""
        c, memory = self.config.training, self._memory()
        averaged = [p.module for p in self.job.parts.values() if p.averaged]
        model = sum(4 * sum(p.numel() for p in m.parameters()) for m in averaged) + memory.frozen
        data = getattr(self.config, "data", None)
        report = CostReport(
            protocol=self._protocol(),
            steps=c.steps,
            parameters={n: sum(p.numel() for p in part.module.parameters()) for n, part in self.job.parts.items()},
            phases=tuple(self.phases),
            evaluation=self.evaluation,
            sampling=self.sampling,
            saving=self.saving,
            checkpoints=min(c.keep + 1, self.saving.times),
            model_bytes=model,
            cache_bytes=folder_size(data.path) if isinstance(data, CacheConfig) else 0,
            disk_free=disk_left(self.folder),
            memory=memory,
            price=price,
            currency=currency,
            notes=tuple(self.notes),
            warnings=(),
        )
        return replace(report, warnings=(*self.warnings, *_too_large(report)))

    def _protocol(self) -> dict[str, Any]:
        c = self.config.training
        return {
            "kinolab": __version__,
            "torch": torch.__version__,
            "recipe": self.config.model_dump(mode="json"),
            "name": self.config.name,
            "kind": self.config.kind,
            "run": str(self.folder),
            "measured_steps": self.steps,
            "precision": str(resolve(c.precision, self.ranks.device)).removeprefix("torch."),
            "device": str(self.ranks.device),
            "processes": self.ranks.size,
            "threads": torch.get_num_threads(),
            "batch_size": c.batch_size,
            "micro_batch": c.micro_batch,
        }


def _too_large(report: CostReport) -> Iterator[str]:
    """What will not fit: the peak in memory, what is written on the disk."""
    peak, machine = report.memory.peak, report.memory.machine
    if report.phases and peak is not None and machine is not None and peak > HEADROOM * machine:
        yield f"memory: the run takes {_gb(peak)} and the machine has {_gb(machine)}"
    if report.disk > HEADROOM * report.disk_free:
        yield f"disk: the run writes {_gb(report.disk)} and {_gb(report.disk_free)} are free; lower training.keep"


def _times(steps: int, every: int) -> int:
    """How often something happens that is done every n steps and at the end."""
    return math.ceil(steps / every)


def _last_clip(micro_batches: Sequence[MicroBatch]) -> MicroBatch:
    """The last clip of a step alone; images stand at the beginning of a batch that is mixed."""
    last = micro_batches[-1]
    return MicroBatch(last.positions[-1:], last.examples[-1:])


def _parameters(job: Job) -> list[nn.Parameter]:
    return [p for part in job.parts.values() for p in part.module.parameters() if p.requires_grad]


def _bytes(values: Any) -> int:
    return sum(v.nbytes for v in values if isinstance(v, Tensor))


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


@contextmanager
def _evaluating(job: Job) -> Iterator[None]:
    """All parts in evaluation mode."""
    for part in job.parts.values():
        part.module.eval()
    try:
        yield
    finally:
        for part in job.parts.values():
            part.module.train()
