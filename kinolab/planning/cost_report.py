"""What a run needs, as numbers, as a table and as JSON."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kinolab.evaluation.records import plain_table
from kinolab.evaluation.scores import ScoreReport, Settings
from kinolab.metrics.base import Interval, MetricValue

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Phase:
    """Steps of a run between `first` and `last` (not counted) which all do the same.

    steps: how many they are: all, or those in which the same parts step; parts: these, where not all steps are alike.
    loading, computing: seconds of each timed step, waiting for its clips and computing; warm: seconds of the first
    step, which is not counted (compilation falls in it); flops: floating-point operations of a step, where they were
    counted.
    """

    first: int
    last: int
    loading: tuple[float, ...]
    computing: tuple[float, ...]
    warm: float
    flops: float | None
    steps: int
    parts: tuple[str, ...] = ()

    @property
    def step(self) -> tuple[float, float, float]:
        """Seconds of a step: the fastest, the median, the slowest."""
        whole = [a + b for a, b in zip(self.loading, self.computing, strict=True)]
        return min(whole), statistics.median(whole), max(whole)

    @property
    def rate(self) -> float | None:
        """Floating-point operations per second that a step reaches while it computes."""
        return None if self.flops is None else self.flops / statistics.median(self.computing)


@dataclass(frozen=True)
class Once:
    """Something that happens now and then: seconds and bytes of one time, and how often."""

    seconds: float = 0.0
    bytes: int = 0
    times: int = 0


@dataclass(frozen=True)
class Memory:
    """Bytes. peak: of the process (on CUDA: allocated there), measured; the others are parts of it.

    weights, gradients, optimizer, average: of what is trained; frozen: of what stands beside it, named in `beside`, as
    the autoencoder that a denoiser is trained on and the teacher that it is distilled from; activations: kept for the
    backward pass, from a step with one clip; None = not known. machine: all there is.
    """

    peak: int | None
    machine: int | None
    weights: int
    gradients: int
    optimizer: int
    average: int
    frozen: int
    activations: int | None
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class CostReport:
    """What a run will take; see `Phase`, `Once` and `Memory`.

    checkpoints: how many lie on the disk at once, the one being written included; model_bytes: the model folder;
    cache_bytes: the latent cache that is read, already there.
    """

    protocol: dict[str, Any]
    steps: int
    parameters: dict[str, int]
    phases: tuple[Phase, ...]
    evaluation: Once
    sampling: Once
    saving: Once
    checkpoints: int
    model_bytes: int
    cache_bytes: int
    disk_free: int
    memory: Memory
    price: float | None
    currency: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def seconds(self) -> tuple[float, float, float] | None:
        """Seconds of the whole run: with the fastest, the median and the slowest step; None = nothing was run."""
        if not self.phases:
            return None
        beside = sum(once.seconds * once.times for once in (self.evaluation, self.sampling, self.saving))
        low, middle, high = (sum(p.step[k] * p.steps for p in self.phases) for k in range(3))
        return low + beside, middle + beside, high + beside

    @property
    def disk(self) -> int:
        """Bytes that the run writes and keeps: checkpoints, samples, the model."""
        return self.checkpoints * self.saving.bytes + self.sampling.times * self.sampling.bytes + self.model_bytes

    @property
    def cost(self) -> tuple[float, float, float] | None:
        """The price of the whole run: low, median, high; None without a price or a time."""
        if self.price is None or self.seconds is None:
            return None
        low, middle, high = (self.price * s / 3600 for s in self.seconds)
        return low, middle, high

    def scores(self) -> ScoreReport:
        """What the run takes, as scores; intervals are from the fastest step to the slowest."""
        steps = sum(len(p.computing) for p in self.phases)
        found = {"disk_bytes": MetricValue(float(self.disk), 1)}
        if self.memory.peak is not None:
            found["peak_memory"] = MetricValue(float(self.memory.peak), 1)
        for name, span in (("run_seconds", self.seconds), ("cost", self.cost)):
            if span is not None:
                low, middle, high = span
                found[name] = MetricValue(middle, steps, {}, Interval(low, high, "range of steps", 1.0))
        protocol, details = Settings("plan", self.protocol), dataclasses.asdict(self)
        details |= {"seconds": self.seconds, "disk": self.disk, "cost": self.cost}
        for phase, row in zip(self.phases, details["phases"], strict=True):
            row |= {"step": phase.step, "rate": phase.rate}
        name = self.protocol["name"]
        return ScoreReport(
            {"name": name, "kind": "recipe"}, {"name": name}, protocol, protocol.hash(), found, (), {}, self.notes, {},
            details,
        )  # fmt: skip

    def to_json(self) -> str:
        """All of it, with the totals."""
        return self.scores().to_json()

    def table(self) -> Table:
        """What the run needs, a row each."""
        p = self.protocol
        table = plain_table(f"{p['name']}: {self.steps} steps of {p['batch_size']} clips")
        for heading in ("", "", ""):
            table.add_column(heading)
        table.show_header = False
        for row in (*self._model_rows(), *self._memory_rows(), *self._disk_rows(), *self._time_rows()):
            table.add_row(*row)
        if self.cost is not None:
            low, middle, high = (f"{c:.2f}" for c in self.cost)
            unit = f" {self.currency}" if self.currency else ""
            table.add_row("cost", f"{middle}{unit}", f"{low} to {high}, at {self.price:g}{unit} an hour", style="bold")
        return table

    def _model_rows(self) -> list[tuple[str, str, str]]:
        total = sum(self.parameters.values())
        each = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in self.parameters.items())
        return [("parameters", f"{total / 1e6:.2f} M", each if len(self.parameters) > 1 else "")]

    def _memory_rows(self) -> list[tuple[str, str, str]]:
        m = self.memory
        names = {"weights": m.weights, "gradients": m.gradients, "optimiser": m.optimizer, "average": m.average}
        names |= {f"frozen {' and '.join(m.beside or ('autoencoder',))}": m.frozen, "activations": m.activations or 0}
        parts = ", ".join(f"{name} {size(count)}" for name, count in names.items() if count)
        where = "allocated" if not self.protocol["device"].startswith("cpu") else "of the process"
        have = "" if m.machine is None else f" of {size(m.machine)}"
        return [("memory", "-" if m.peak is None else size(m.peak), f"peak {where}{have}"), ("", "", parts)]

    def _disk_rows(self) -> list[tuple[str, str, str]]:
        parts = [f"{self.checkpoints} checkpoints of {size(self.saving.bytes)}", f"model {size(self.model_bytes)}"]
        if self.sampling.bytes:
            parts.append(f"samples {size(self.sampling.times * self.sampling.bytes)}")
        if self.cache_bytes:
            parts.append(f"beside the latent cache of {size(self.cache_bytes)}")
        return [("disk", size(self.disk), f"{size(self.disk_free)} free"), ("", "", ", ".join(parts))]

    def _time_rows(self) -> list[tuple[str, str, str]]:
        if self.seconds is None:
            return [("time", "-", "nothing was run")]
        low, middle, high = map(clock, self.seconds)
        rows = [("time", middle, f"{low} to {high}, by the fastest and the slowest step")]
        for phase in self.phases:
            a, b, c = phase.step
            whole = all((p.first, p.last) == (phase.first, phase.last) for p in self.phases)
            steps = "" if whole else f", steps {phase.first} to {phase.last - 1}"
            steps += f", {phase.steps} steps of {' and '.join(phase.parts)}" if phase.parts else ""
            waiting = statistics.median(phase.loading) / b
            rows.append(("a step", f"{b:.3g} s", f"{a:.3g} to {c:.3g} s{steps}; {100 * waiting:.0f}% waiting for data"))
            if phase.flops is not None and phase.rate is not None:
                rows.append(("", f"{phase.flops / 1e9:.3g} GFLOP", f"{phase.rate / 1e9:.3g} GFLOP/s reached"))
        for name, once in (("measuring", self.evaluation), ("samples", self.sampling), ("saving", self.saving)):
            if once.times:
                rows.append((name, clock(once.times * once.seconds), f"{once.times} times {once.seconds:.3g} s"))
        return rows

    def lines(self) -> list[str]:
        """How it was measured, the notes, and the warnings last."""
        p = self.protocol
        threads = f"{p['threads']} thread{'s' * (p['threads'] != 1)}"
        how = f"{p['measured_steps']} timed steps, {p['precision']}, {p['device']}, {threads}"
        if p["processes"] > 1:
            how += f", one of {p['processes']} processes"
        return [how, *(f"note: {n}" for n in self.notes), *(f"warning: {w}" for w in self.warnings)]


def size(count: float) -> str:
    """Bytes in the unit that suits them: 1.2 GB, 34 MB."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def clock(seconds: float) -> str:
    """Seconds as 45 s, 12 min, 3 h 20 min, 5 d 2 h."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"
