"""Failures of many machines: how often to save (Young, Daly), and a run played through with failures and stragglers.

A run of W seconds of work saves every tau seconds, for delta seconds in which nothing else happens; failures come at
random with a mean time M between them, and after one the run takes R seconds to be back at its newest checkpoint. The
more often it saves, the less a failure costs, and the more is spent on saving:

    tau = sqrt(2 delta M)                                     Young 1974, "A first order approximation to the optimum
                                                              checkpoint interval"
    T(tau) = M exp(R / M) (exp((tau + delta) / M) - 1) W / tau    Daly 2006, "A higher order estimate of the optimum
                                                              checkpoint interval for restart dumps", equation 20

A single machine of many ends all: with G processes that each fail once in m seconds, M = m / G. And a step takes as
long as its slowest process: the largest of G draws.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from kinolab.errors import InputError

NORMAL = NormalDist()
MOST = math.nextafter(1, 0)
"""A share below 1: what lies below all of it is infinite."""


@dataclass(frozen=True)
class Weather:
    """What a run has to reckon with.

    between: M, mean seconds between failures of any process; 0 failures = infinity. restart: R, seconds from a failure
    until steps go on. save: delta, seconds that a checkpoint holds the steps up. write: seconds until it can be resumed
    from, delta or, where it is written beside the steps, longer.
    """

    between: float
    restart: float
    save: float
    write: float = 0.0

    def __post_init__(self) -> None:
        if not self.between > 0 or min(self.restart, self.save, self.write) < 0:
            raise InputError(
                f"expected a time between failures above 0 and no negative ones, got {self.between:g}, "
                f"{self.restart:g}, {self.save:g} and {self.write:g} s"
            )


def young(weather: Weather) -> float:
    """The interval between checkpoints that costs least, to first order: sqrt(2 delta M)."""
    return math.sqrt(2 * weather.save * weather.between)


def daly(weather: Weather) -> float:
    """The same to higher order (Daly 2006, equation 37): for delta < 2 M a series, else M."""
    delta, M = weather.save, weather.between
    if delta >= 2 * M:
        return M
    x = delta / (2 * M)
    return math.sqrt(2 * delta * M) * (1 + math.sqrt(x) / 3 + x / 9) - delta


def expected_seconds(work: float, interval: float, weather: Weather) -> float:
    """Seconds that so much work takes on average with a checkpoint every `interval` seconds of it (Daly 2006,
    equation 20); infinite where failures come faster than anything can be saved."""
    if math.isinf(weather.between):
        return work * (1 + weather.save / interval)
    M, segment = weather.between, (interval + weather.save) / weather.between
    if max(segment, weather.restart / M) > 700:
        return math.inf
    return M * math.exp(weather.restart / M) * math.expm1(segment) * work / interval


def slowest_factor(ranks: int, deviation: float) -> float:
    """How much longer a step takes that waits for the slowest of so many processes, each with a standard deviation of
    `deviation` around 1: the expected largest of that many normal draws, E = F^-1 of 1 - 1 / (ranks + 1) about (Blom
    1958, alpha = 3/8)."""
    if ranks < 2 or deviation == 0:
        return 1.0
    share = (ranks - 0.375) / (ranks + 0.25)
    return 1 + deviation * NORMAL.inv_cdf(share)


@dataclass(frozen=True)
class Played:
    """One run as it was played: seconds in all, and of them: steps that were kept, steps that were lost with failures,
    saving, restarting; how many failures came, and the extra seconds of kept steps over those of no straggler."""

    seconds: float
    kept: float
    lost: float
    saving: float
    restarting: float
    failures: int
    straggling: float = 0.0


@dataclass(frozen=True)
class Steps:
    """The steps of a run: how many, seconds of one by one process, the relative deviation of that, and processes.

    each: the seconds of every step where they are known, as of a run that was measured; empty = all take `seconds`.
    """

    count: int
    seconds: float
    deviation: float = 0.0
    ranks: int = 1
    each: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.each and len(self.each) != self.count:
            raise InputError(f"expected the seconds of {self.count} steps, got {len(self.each)}")


def play(
    steps: Steps,
    every: int,
    weather: Weather,
    seed: int,
    *,
    gaps: Iterator[float] | None = None,
    restarts: Iterator[float] | None = None,
) -> Played:
    """A run played event by event: steps, checkpoints that become whole, and failures, each at its time.

    Args:
        every: steps between checkpoints.
        gaps: seconds from each failure to the next, the first from the start; none = exponential draws with the mean
            `weather.between`.
        restarts: seconds from each failure until steps go on, unless another comes first; none, or no more of them =
            `weather.restart`.

    Failures come also while it restarts. A step takes as long as the slowest of its processes. A checkpoint counts from
    when it is written; beside the steps, those go on meanwhile.
    """
    draws = random.Random(seed)
    gaps, restarts = _exponential(weather, draws) if gaps is None else gaps, iter(()) if restarts is None else restarts
    writing: deque[tuple[float, int]] = deque()  # (time, step): when the checkpoint after that step is whole
    kept: list[float] = []  # seconds of each step that stands
    now, whole, failures, fails = 0.0, 0, 0, next(gaps, math.inf)
    lost = saving = restarting = 0.0
    while len(kept) < steps.count:
        done = len(kept) + 1
        step = (steps.each[done - 1] if steps.each else steps.seconds) * _slowest(steps, draws)
        pause = weather.save if done % every == 0 or done == steps.count else 0.0
        while writing and writing[0][0] <= min(fails, now):
            whole = writing.popleft()[1]
        if now + step + pause <= fails:
            now, saving = now + step + pause, saving + pause
            kept.append(step)
            if pause or done % every == 0:
                writing.append((now - pause + max(pause, weather.write), done))
            continue
        # The step, or the saving after it, is cut off, and so is what is still being written.
        while writing and writing[0][0] <= fails:
            whole = writing.popleft()[1]
        writing.clear()
        lost += sum(kept[whole:]) + fails - now
        del kept[whole:]
        back = fails
        while fails <= back:  # again before it is back
            now, failures = fails, failures + 1
            fails, back = now + next(gaps, math.inf), now + next(restarts, weather.restart)
            restarting += min(fails, back) - now
        now = back
    straggling = sum(kept) - (sum(steps.each) if steps.each else len(kept) * steps.seconds)
    return Played(now, sum(kept), lost, saving, restarting, failures, straggling)


def _exponential(weather: Weather, draws: random.Random) -> Iterator[float]:
    while math.isfinite(weather.between):
        yield draws.expovariate(1 / weather.between)


def _slowest(steps: Steps, draws: random.Random) -> float:
    """The factor of one step: the largest of as many normal draws as there are processes, at least 0.1."""
    if not steps.deviation:
        return 1.0
    # The largest of n uniform draws has the distribution u^(1/n), so that one draw serves any number of processes.
    share = max(1e-12, draws.random()) ** (1 / steps.ranks)
    return max(0.1, 1 + steps.deviation * NORMAL.inv_cdf(min(share, MOST)))


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies, the nearest one."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
