"""Training a recipe for as long as there is: the number of steps is what fits, and an interrupted run goes on."""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.running import OutOfTimeError, Place, Record
from kinolab.config import to_yaml
from kinolab.contracts.events import Losses, Silent
from kinolab.runtime.ranks import Ranks
from kinolab.training.jobs.autoencoder import AutoencoderJob
from kinolab.training.jobs.denoiser import DenoiserJob
from kinolab.training.recipe import AutoencoderRecipe, DenoiserRecipe
from kinolab.training.trainer import Trainer

AnyRecipe = AutoencoderRecipe | DenoiserRecipe
PROBE = 12
"""Steps that are timed first; the first third of them sets up the device."""
USED = 0.8
"""Share of the time that steps are planned for; the rest is for what is measured at the end."""


class ModelAutoencoderJob(AutoencoderJob):
    """Without sample videos, which need a codec."""

    def sample(self, folder: Path, step: int, ranks: Ranks) -> None:
        """Nothing: pictures are made of the finished model."""


class ModelDenoiserJob(DenoiserJob):
    """Without sample videos, which need a codec."""

    def sample(self, folder: Path, step: int, ranks: Ranks) -> None:
        """Nothing: pictures are made of the finished model."""


MakeJob = Callable[[Any], Any]
"""A job for a recipe, with first weights."""


def fit(recipe: AnyRecipe, make_job: MakeJob, folder: Path, place: Place, seconds: float) -> Record:
    """Train in `folder` for about `seconds`, or go on with what an earlier call began; the model is in `folder/model`.

    Raises:
        OutOfTimeError: where the part's time is over first; a checkpoint is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    planned = folder / "plan.json"
    if not planned.exists():
        step_seconds = probe(recipe, make_job, place)
        least, most = (3, 3) if place.small else (50, 100 * recipe.training.steps)
        steps = min(most, max(least, int(USED * seconds / step_seconds)))
        planned.write_text(json.dumps({"steps": steps, "step_seconds": step_seconds}), encoding="utf-8")
    plan = json.loads(planned.read_text(encoding="utf-8"))
    if (folder / "model" / "model.yaml").exists():
        return {"steps": plan["steps"], "probed_step_seconds": plan["step_seconds"], **log_of(folder)}
    settled = _settled(recipe, plan["steps"])
    (folder / "recipe.yaml").write_text(to_yaml(settled), encoding="utf-8")
    torch.manual_seed(settled.training.seed)
    said = _Said(settled.name, plan["steps"], place)
    step = Trainer(make_job(settled), settled.training, folder, Ranks(device=place.device), said).run()
    if step < plan["steps"]:
        raise OutOfTimeError(f"{settled.name}: stopped at step {step} of {plan['steps']}; the next call goes on there")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return {"steps": step, "probed_step_seconds": plan["step_seconds"], **log_of(folder)}


class _Said(Silent):
    """Says the loss at every tenth of a training, and stops it where the time is over."""

    def __init__(self, name: str, steps: int, place: Place) -> None:
        self.name, self.steps, self.place = name, steps, place

    @property
    def stopping(self) -> bool:
        """Whether the time is over."""
        return self.place.clock.left() <= 0

    def losses(self, step: int, numbers: Mapping[str, float], of: Losses = "step") -> None:
        """A line for every tenth."""
        if of == "step" and step % max(1, self.steps // 10) == 0:
            self.place.say(f"  {self.name}: step {step} of {self.steps}, {_main(dict(numbers)):.4g}")


def probe(recipe: AnyRecipe, make_job: MakeJob, place: Place) -> float:
    """Seconds of a step, as the median of some."""
    count = 2 if place.small else PROBE
    settled = _settled(recipe, count)
    seconds: list[float] = []
    last = time.perf_counter()

    def progress(done: int, total: int) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds.append(now - last)
        last = now

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(make_job(settled), settled.training, Path(folder), Ranks(device=place.device), progress)
        # One step short of the end, which would be measured, sampled and exported.
        trainer.run(until=count - 1)
    return statistics.median(seconds[len(seconds) // 3 :])


def _settled(recipe: AnyRecipe, steps: int) -> AnyRecipe:
    """The recipe with so many steps, warm-up in proportion, and nothing that needs a codec or a writer of events."""
    training = recipe.training
    changes = {
        "steps": steps, "warmup": min(training.warmup, steps // 10), "tensorboard": False, "compile": False,
        "save_every": max(1, steps), "evaluate_every": max(50, steps // 4), "sample_every": 10**9,
        "log_every": max(1, min(training.log_every, steps // 20)), "precision": "auto",
    }  # fmt: skip
    return recipe.model_copy(update={"training": training.model_copy(update=changes)})


def log_of(folder: Path) -> Record:
    """The run's log in short: about sixty training losses, and all held-out numbers."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    trained = [row for row in rows if row["kind"] == "train"]
    every = max(1, len(trained) // 60)
    heldout = [{k: v for k, v in row.items() if k not in ("kind",)} for row in rows if row["kind"] == "heldout"]
    curve = [[row["step"], _main(row)] for row in trained[::every]]
    return {"curve": curve, "heldout": heldout, "training_seconds": rows[-1]["seconds"] if rows else 0.0}


def _main(numbers: dict[str, Any]) -> float:
    """The loss that is shown."""
    return float(next((numbers[k] for k in ("loss", "mse", "reconstruction", "autoencoder_loss") if k in numbers), 0.0))
