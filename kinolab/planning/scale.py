"""A training on many accelerators, on paper: time, network, storage, failures and cost from rates that were measured.

Everything is arithmetic on a few numbers, each of them printed beside what follows from it: what was measured here (or
is told by the person), and what is assumed, with where the default comes from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from kinolab.data.cache import CacheConfig, read_index
from kinolab.data.folder import FolderConfig
from kinolab.errors import InputError
from kinolab.evaluation.records import plain_table
from kinolab.planning.cost_report import clock, size
from kinolab.planning.failures import (
    Played,
    Steps,
    Weather,
    daly,
    expected_seconds,
    play,
    quantile,
    slowest_factor,
    young,
)  # fmt: skip
from kinolab.runtime.machine import folder_size
from kinolab.training.recipe import BaseRecipe
from kinolab.video import visible_files

if TYPE_CHECKING:
    from rich.table import Table

HOUR, DAY, MONTH = 3600.0, 86400.0, 30 * 86400.0
GB = 1e9
LLAMA = 54 * DAY * 16384 / 419
"""Seconds between failures of one accelerator: 419 unexpected interruptions of 16,384 GPUs in 54 days (Grattafiori et
al. 2024, arXiv:2407.21783, section 3.3.4), 50,700 hours."""
PLAYS = 100
"""Runs that are played through."""
MEASURED = 8
"""Clips that are measured together where a recipe doesn't say how many are computed at once."""
PLAYED = 2000
"""At most so many steps of one; more are taken together."""


@dataclass(frozen=True)
class Assumed:
    """What is assumed of the machines; all but the last two fields are options of `kinolab plan --scale`."""

    clips: float
    """Clips in the training set, as 10e6."""
    gpus: int
    """Accelerators."""
    price: float | None = None
    """Price of an accelerator per hour."""
    epochs: float = 1.0
    """How often each clip is seen (1)."""
    rate: float | None = None
    """Clips per second of one accelerator; default as measured."""
    between: float = LLAMA / HOUR
    """Mean hours between failures of one accelerator (50,700)."""
    restart: float = 300.0
    """Seconds until a run is back after a failure (300)."""
    bandwidth: float = 10.0
    """GB/s with which all write a checkpoint together (10)."""
    network: float = 25.0
    """GB/s of an accelerator's network, which a step's gradients pass (25)."""
    deviation: float = 0.01
    """How much steps differ between accelerators: standard deviation, relative (0.01)."""
    clip_bytes: float | None = None
    """Stored bytes of a clip; default as its data lies here."""
    egress_price: float = 0.0
    """Price of a GB that leaves the store (0)."""
    storage_price: float = 0.023
    """Price of a GB and month in the store (0.023)."""
    beside: bool = False
    """Checkpoints are written beside the steps."""
    overlap: float = 0.5
    """Share of the gradients' exchange that is hidden behind the backward pass."""
    pause: float = 2.0
    """Seconds that steps wait for the copy, where checkpoints are written beside them."""

    def __post_init__(self) -> None:
        positive = {
            "clips": self.clips, "gpus": self.gpus, "epochs": self.epochs, "hours between failures": self.between,
            "bandwidth": self.bandwidth, "network": self.network, "rate": 1.0 if self.rate is None else self.rate,
        }  # fmt: skip
        for name, value in positive.items():
            if not 0 < value < math.inf:
                raise InputError(f"plan --scale: expected {name} above 0, got {value:g}")
        if not 0 <= self.overlap <= 1 or self.deviation < 0 or self.restart < 0:
            raise InputError(
                f"plan --scale: expected an overlap from 0 to 1 and no negative deviation or restart, got "
                f"{self.overlap:g}, {self.deviation:g} and {self.restart:g}"
            )


@dataclass(frozen=True)
class Measured:
    """What was measured of a recipe.

    name: of the recipe. rate: clips a second of one device. device: it. batch: clips of a step. parameters: how many.
    state: bytes of a checkpoint. clip_bytes: of a clip's latents or pixels as stored, where known. context: how many
    accelerators compute a clip together.
    """

    name: str
    rate: float
    device: str
    batch: int
    parameters: int
    state: int
    clip_bytes: float | None
    context: int = 1
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScaleReport:
    """What a training at scale takes; all in seconds and bytes.

    steps: how many. compute: of one step by the slowest process, alone: by any one. exchange: what a step waits for
    gradients. weather: failures, restarts and saving. interval: of work between checkpoints, the best one by Daly.
    plays: the run played with failures, many times.
    """

    measured: Measured
    assumed: Assumed
    steps: int
    compute: float
    alone: float
    exchange: float
    weather: Weather
    interval: float
    every: int
    expected: float
    plays: tuple[Played, ...] = field(repr=False)

    @property
    def work(self) -> float:
        """Seconds of all steps where nothing fails and nothing is saved."""
        return self.steps * (self.compute + self.exchange)

    @property
    def played(self) -> tuple[float, float, float]:
        """Seconds of the runs that were played: of a good one (5%), the middle one, a bad one (95%)."""
        seconds = [p.seconds for p in self.plays]
        return quantile(seconds, 0.05), quantile(seconds, 0.5), quantile(seconds, 0.95)

    @property
    def stored(self) -> float:
        """Bytes of the clips."""
        return self.assumed.clips * (self.assumed.clip_bytes or self.measured.clip_bytes or 0.0)

    @property
    def egress(self) -> float:
        """Bytes that leave the store: every clip in every epoch, and what was read for steps that were lost."""
        mean = sum(p.lost / max(p.kept, 1e-9) for p in self.plays) / len(self.plays)
        return self.stored * self.assumed.epochs * (1 + mean)

    def costs(self) -> dict[str, float] | None:
        """Prices by what they are of, `all` last; None without a price."""
        if self.assumed.price is None:
            return None
        found = {
            "accelerators": self.assumed.price * self.assumed.gpus * self.played[1] / HOUR,
            "egress": self.assumed.egress_price * self.egress / GB,
            "storage": self.assumed.storage_price * (self.stored + 3 * self.measured.state) / GB
            * max(1.0, self.played[1] / MONTH),
        }  # fmt: skip
        return found | {"all": sum(found.values())}

    def table(self, currency: str = "") -> Table:
        """All of it, a row each."""
        a = self.assumed
        table = plain_table(f"{self.measured.name}: {a.clips:,.0f} clips, {a.epochs:g} epochs, {a.gpus} accelerators")
        for heading in ("", "", ""):
            table.add_column(heading)
        table.show_header = False
        for row in (*self._speed_rows(), *self._data_rows(), *self._failure_rows(), *self._time_rows(currency)):
            table.add_row(*row)
        return table

    def _speed_rows(self) -> Iterator[tuple[str, str, str]]:
        m, a = self.measured, self.assumed
        told = "told" if a.rate is not None else f"measured on {m.device}"
        rate = a.rate or m.rate
        yield "rate", f"{rate:.3g} clips/s", f"of one accelerator, {told}"
        yield "a step", f"{self.compute + self.exchange:.3g} s", f"{self.steps:,} of {m.batch:,} clips"
        slower = 100 * (self.compute / self.alone - 1)
        yield "", f"{self.compute:.3g} s", f"computing, {slower:.1f}% of it the slowest of {a.gpus}"
        what = f"{size(12 * m.parameters)} of weights and gradients through {size(a.network * GB)}/s"
        yield "", f"{self.exchange:.3g} s", f"waiting for {what}, {100 * a.overlap:.0f}% of it hidden"

    def _data_rows(self) -> Iterator[tuple[str, str, str]]:
        m, a = self.measured, self.assumed
        each = a.clip_bytes or m.clip_bytes
        if each is None:
            yield "data", "-", "the bytes of a clip are not known: give --clip-bytes"
        else:
            yield "data", size(self.stored), f"{size(each)} a clip"
            yield "egress", size(self.egress), f"{size(self.egress / max(self.played[1], 1e-9))}/s on average"
        shown = f"written in {self.weather.write:.3g} s at {size(a.bandwidth * GB)}/s"
        yield "checkpoint", size(m.state), f"{shown}, steps wait {self.weather.save:.3g} s"

    def _failure_rows(self) -> Iterator[tuple[str, str, str]]:
        a, w = self.assumed, self.weather
        yield "a failure in", clock(w.between), f"{a.gpus} accelerators, one of each in {a.between:,.0f} h"
        every = f"every {clock(self.interval)} of work, or {self.every:,} steps"
        yield "save", every, f"Daly's optimum (Young's: {clock(young(w))})"
        for factor in (0.25, 0.5, 1.0, 2.0, 4.0):
            interval = factor * self.interval
            over = 100 * (expected_seconds(self.work, interval, w) / self.work - 1)
            yield "", clock(interval), f"loses {over:.2f}% to saving, lost steps and restarts"

    def _time_rows(self, currency: str) -> Iterator[tuple[str, str, str]]:
        low, middle, high = self.played
        failures = sum(p.failures for p in self.plays) / len(self.plays)
        lost = sum(p.lost for p in self.plays) / len(self.plays)
        yield "time", clock(middle), f"{clock(low)} to {clock(high)} in 90% of {len(self.plays)} runs played"
        yield "", clock(self.expected), "by Daly's formula"
        yield "", clock(self.work), "if nothing ever failed and nothing were saved"
        yield "failures", f"{failures:.1f}", f"{clock(lost)} of steps lost with them"
        yield "accelerator hours", f"{self.assumed.gpus * middle / HOUR:,.0f}", ""
        costs = self.costs()
        if costs is not None:
            unit = f" {currency}" if currency else ""
            parts = ", ".join(f"{name} {value:,.0f}" for name, value in costs.items() if name != "all")
            yield "cost", f"{costs['all']:,.0f}{unit}", parts

    def values(self) -> dict[str, Any]:
        """All of it as plain values."""
        names = ("steps", "compute", "exchange", "interval", "every", "expected")
        low, middle, high = self.played
        return {
            "measured": asdict(self.measured), "assumed": asdict(self.assumed), "weather": asdict(self.weather),
            **{name: getattr(self, name) for name in names}, "work": self.work, "young": young(self.weather),
            "seconds": {"low": low, "middle": middle, "high": high}, "stored": self.stored, "egress": self.egress,
            "failures": sum(p.failures for p in self.plays) / len(self.plays), "costs": self.costs(),
        }  # fmt: skip


def scale(measured: Measured, assumed: Assumed, seed: int = 0) -> ScaleReport:
    """What a measured recipe takes on many accelerators.

    A step's clips are shared by all; its gradients are exchanged by a ring (2 (G - 1) / G of their bytes through each
    accelerator, Patarasuk and Yuan 2009), which also is what FSDP2 gathers and scatters, times 3/2.

    Raises:
        InputError: where there are more accelerators than clips in a step.
    """
    a, m = assumed, measured
    groups = a.gpus // m.context
    if not 0 < groups <= m.batch:
        each = "each accelerator needs" if m.context == 1 else f"every {m.context} accelerators need"
        raise InputError(
            f"plan --scale --gpus {a.gpus}: a step has {m.batch} clips, and {each} one: give "
            f"-s training.batch_size=N of at least {max(1, groups)}"
        )
    steps = max(1, math.ceil(a.clips * a.epochs / m.batch))
    alone = m.batch / a.gpus / (a.rate or m.rate)
    compute = alone * slowest_factor(a.gpus, a.deviation)
    ring = 2 * (a.gpus - 1) / a.gpus * 4 * m.parameters * 1.5
    exchange = (1 - a.overlap) * ring / (a.network * GB)
    write = m.state / (a.bandwidth * GB)
    pause = min(write, a.pause) if a.beside else write
    weather = Weather(a.between * HOUR / a.gpus, a.restart, pause, write)
    step = compute + exchange
    interval = max(step, daly(weather), write if a.beside else 0.0)
    every = max(1, round(interval / step))
    interval = every * step
    expected = expected_seconds(steps * step, min(interval, steps * step), weather)
    if not expected < 100 * steps * step:
        raise InputError(
            f"plan --scale: a failure every {clock(weather.between)} leaves no time to save in {clock(write)} and to "
            f"restart in {clock(a.restart)}: such a run does not end"
        )
    # A step of the play stands for many where there are very many, so that it takes a moment.
    stands = max(1, min(every, steps // PLAYED))
    if stands > 1:  # of many steps together the mean counts
        played = Steps(math.ceil(steps / stands), stands * step)
    else:
        played = Steps(steps, alone + exchange, a.deviation * alone / (alone + exchange), a.gpus)
    saves = max(1, round(every / stands))
    plays = tuple(play(played, saves, weather, seed + k) for k in range(PLAYS))
    return ScaleReport(m, a, steps, compute, alone, exchange, weather, interval, every, expected, plays)


def clip_bytes(data: Any) -> float | None:
    """Stored bytes of a clip of a recipe's data, where it lies here: of a cache's latents, or of a folder's files."""
    if isinstance(data, CacheConfig) and data.path.is_dir():
        entries = read_index(data.path)
        count = sum(len(entry.items) for entry in entries)
        return folder_size(data.path) / count if count else None
    if isinstance(data, FolderConfig) and data.path is not None and data.path.is_dir():
        sizes = [path.stat().st_size for path in visible_files(data.path)]
        return sum(sizes) / len(sizes) if sizes else None
    return None


def measured_of(report: Any, config: BaseRecipe) -> Measured:
    """What a report of `kinolab plan`, of a few clips at a time, says of a recipe.

    Raises:
        InputError: where nothing was run.
    """
    if not report.phases:
        raise InputError("plan --scale: nothing was run, as it doesn't fit this machine; plan on one that it fits")
    how = config.training.parallel
    return Measured(
        name=config.name,
        rate=int(report.protocol["batch_size"]) / report.phases[-1].step[1],
        device=report.protocol["device"],
        batch=config.training.batch_size,
        parameters=sum(report.parameters.values()),
        state=report.saving.bytes,
        clip_bytes=clip_bytes(getattr(config, "data", None)),
        context=1 if isinstance(how, str) else how.context,
        notes=report.notes,
    )


def few_clips(config: BaseRecipe, known: bool) -> list[str]:
    """Overrides by which a recipe is measured: as many clips as a process computes at once, or one where the rate is
    known from elsewhere."""
    count = 1 if known else config.training.micro_batch or min(config.training.batch_size, MEASURED)
    told = [f"training.batch_size={count}", "training.micro_batch=", "training.parallel=ddp"]
    return [*told, "heldout_clips=1"] if "heldout_clips" in type(config).model_fields else told
