"""How everything here is timed and compared, and what a comparison's result is."""

from __future__ import annotations

import logging
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kinolab.denoisers import Conditions, Denoiser
from kinolab.errors import MissingExtraError
from kinolab.runtime.precision import PrecisionPolicy, autocast, describe


@dataclass(frozen=True)
class Entrant:
    """One way of computing something: `run` gives the output; `warm` runs before, untimed (none = `run` once)."""

    name: str
    run: Callable[[], Tensor]
    warm: Callable[[], object] | None = None


@dataclass(frozen=True)
class Timing:
    """One entrant's times in seconds (by the clock, and of all the processor's cores), and how far its output lies off.

    error: the norm of the difference to the first entrant's output over the norm of that output; largest: the largest
    difference over the largest value; warming: seconds until it was ready (compilation, for one).
    """

    name: str
    seconds: list[float]
    processor: list[float]
    warming: float
    error: float
    largest: float

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Aim:
    """What was aimed at, what came, and whether that is enough."""

    what: str
    reached: float
    met: bool


@dataclass(frozen=True)
class Result:
    """A comparison as it is printed and saved: columns and rows, what was compared, and the aims."""

    name: str
    title: str
    setup: str
    columns: list[str]
    rows: list[list[Any]]
    aims: list[Aim] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


OURS = ("Kinolab, float32", "Kinolab, auto", "Kinolab, auto, --compile")
"""The entrants of a denoiser of ours."""


def forward_of(
    module: Denoiser, policy: PrecisionPolicy, z: Tensor, t: Tensor, conditions: Conditions
) -> Callable[[], Tensor]:
    """One forward of a denoiser, without gradients, in a precision."""

    def run() -> Tensor:
        with torch.no_grad(), autocast(policy):
            prediction: Tensor = module(z, t, conditions)
            return prediction

    return run


def race(
    entrants: Sequence[Entrant],
    repeats: int,
    say: Callable[[str], None] = lambda line: None,
    wait: Callable[[], None] = lambda: None,
) -> list[Timing]:
    """Run all entrants in turns, `repeats` times each; the first one's output is what the others are held against.

    `wait` returns when a device has done all that was asked of it; on the processor there is nothing to wait for.
    """
    warming, outputs = [], []
    for entrant in entrants:
        say(f"  {entrant.name}: getting ready")
        start = time.perf_counter()
        (entrant.warm or entrant.run)()
        wait()
        warming.append(time.perf_counter() - start)
    seconds: list[list[float]] = [[] for _ in entrants]
    processor: list[list[float]] = [[] for _ in entrants]
    for turn in range(repeats):
        say(f"  turn {turn + 1} of {repeats}")
        for k, entrant in enumerate(entrants):
            start, used = time.perf_counter(), time.process_time()
            output = entrant.run()
            wait()
            seconds[k].append(time.perf_counter() - start)
            processor[k].append(time.process_time() - used)
            if turn == 0:
                outputs.append(output.detach().float().clone())
    reference = outputs[0]
    return [
        Timing(e.name, seconds[k], processor[k], warming[k], *difference(outputs[k], reference))
        for k, e in enumerate(entrants)
    ]


def diffusers_class(name: str) -> Any:
    """A class of diffusers by its name, and quiet about what is not of use here.

    Raises:
        MissingExtraError: where the library is not there.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import diffusers

            found = getattr(diffusers, name)
    except ImportError:
        raise MissingExtraError("diffusers", "interop", "the comparison with diffusers") from None
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    return found


def difference(output: Tensor, reference: Tensor) -> tuple[float, float]:
    """(norm of the difference / norm of the reference, largest difference / largest value), over all values."""
    apart, reference = (output - reference).double(), reference.double()
    return float(apart.norm() / reference.norm()), float(apart.abs().max() / reference.abs().max())


def compared(name: str, title: str, setup: str, timings: Sequence[Timing], aims: Sequence[Aim] = ()) -> Result:
    """A result of timings: medians, how many times faster than the first, and the difference of outputs."""
    first = timings[0]
    columns = ["", "median", "faster", "rel. error", "largest diff.", "ready after"]
    rows: list[list[Any]] = [
        [
            t.name,
            f"{t.median:.3g} s",
            f"{first.median / t.median:.2f} x",
            "" if t is first else f"{t.error:.1e}",
            "" if t is first else f"{t.largest:.1e}",
            f"{t.warming:.1f} s",
        ]
        for t in timings
    ]
    details = {t.name: {k: getattr(t, k) for k in Timing.__dataclass_fields__ if k != "name"} for t in timings}
    return Result(name, title, setup, columns, rows, list(aims), details)


def faster(timings: Sequence[Timing], name: str, times: float) -> Aim:
    """The aim that an entrant is at least so many times as fast as the first."""
    chosen = next(t for t in timings if t.name == name)
    ratio = timings[0].median / chosen.median
    return Aim(f"{name}: at least {times:g} times as fast as {timings[0].name}", ratio, ratio >= times)


def closer(timings: Sequence[Timing], name: str, error: float) -> Aim:
    """The aim that an entrant's relative error is below `error`."""
    chosen = next(t for t in timings if t.name == name)
    return Aim(f"{name}: relative error below {error:.0%}", chosen.error, chosen.error < error)


def machine() -> dict[str, Any]:
    """What the figures were measured on, and how busy it was at the time."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "processor": processor_name(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": describe("auto"),
        "load": load,
    }


def processor_name() -> str:
    """The processor's own name where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
