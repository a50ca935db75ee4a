"""Training against a clock: a learning rate that has fallen to zero when the time is over, and a log in JSON lines.

No step waits for the card: numbers are read from it once in many steps.
"""

from __future__ import annotations

import json
import math
import time
from typing import Any

from torch import Tensor, nn

from kinolab.training.ema import Ema
from kinolab.training.settings import TrainingConfig, make_optimizer

EVERY = 50
"""Steps between two readings of the loss."""


class Log:
    """JSON lines on the standard output, which `benchmarks.gpu.trainings` keeps in a file."""

    def __init__(self, name: str) -> None:
        self.name, self.began = name, time.time()

    def write(self, kind: str, **numbers: Any) -> None:
        """A line of numbers, with the seconds since the start."""
        seconds = round(time.time() - self.began, 2)
        print(json.dumps({"training": self.name, "kind": kind, "seconds": seconds, **numbers}), flush=True)

    def say(self, text: str) -> None:
        """A line of text."""
        self.write("note", text=text)


class Learner:
    """One module with its optimiser and its average, trained from now until `until` (of `time.time`), or for so many
    steps if they are done before.

    Args:
        settings: optimiser, peak of the learning rate, warm-up in steps, decay, clip and EMA; of the steps nothing.
    """

    def __init__(
        self, module: nn.Module, settings: TrainingConfig, until: float, log: Log, steps: int | None = None
    ) -> None:
        settings = settings.model_copy(update={"precision": "bfloat16"})
        self.module, self.settings, self.log = module, settings, log
        self.begun, self.until, self.steps = time.time(), until, steps
        self.optimizer = make_optimizer(module, settings)
        self.ema = Ema(module, settings.ema)
        self.done, self.peak = 0, settings.learning_rate
        self.sum: Tensor | None = None
        self.numbers: dict[str, float] = {}

    @property
    def passed(self) -> float:
        """Share of the time or of the steps that is over, 0 to 1."""
        if self.steps is not None:
            return min(1.0, self.done / self.steps)
        return min(1.0, (time.time() - self.begun) / max(1e-6, self.until - self.begun))

    @property
    def over(self) -> bool:
        """Whether the training has come to its end."""
        return time.time() >= self.until or (self.steps is not None and self.done >= self.steps)

    @property
    def rate(self) -> float:
        """The learning rate now: linear warm-up over the first steps, and a half cosine over the time."""
        warm = min(1.0, (self.done + 1) / max(1, self.settings.warmup))
        return self.peak * warm * 0.5 * (1 + math.cos(math.pi * self.passed))

    def step(self, loss: Tensor) -> None:
        """Backward pass, clipping, one step of the optimiser and of the average."""
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.done)
        self.done += 1
        value = loss.detach()
        self.sum = value if self.sum is None else self.sum + value
        if self.done % EVERY == 0:
            self._read()

    def _read(self) -> None:
        """Read the mean loss, and go back to the average where it is not finite."""
        assert self.sum is not None
        mean = float(self.sum) / EVERY
        self.sum = None
        self.numbers = {"step": self.done, "loss": round(mean, 5), "rate": round(self.rate, 7)}
        self.log.write("train", **self.numbers)
        if not math.isfinite(mean):
            self.peak /= 2
            self.log.say(f"step {self.done}: the loss is {mean}; back to the average, at half the learning rate")
            self.ema._copy(self.ema.shadow)
            self.optimizer = make_optimizer(self.module, self.settings)
