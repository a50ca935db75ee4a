"""Sampling along a clip of any length, in memory that its length has no part in, and without seams.

A network sees a window of frames at a time, and of large frames a tile. What it takes a clip for must not end where a
window does, so windows and tiles overlap, and their estimates of the clean clip are blended *in every step*
(Bar-Tal et al. 2023, MultiDiffusion, arXiv:2302.08113): all that overlaps goes on from the same noisy latents. Noise is
a function of the place in the clip, so it does not change with the windows.

A step of a frame needs the windows that see it, and these the frames beside it after the step before, no others. So
the steps follow each other along the clip like waves:

    step 1   ######>>>>........        > the window at work
    step 2   ##>>>>............        # done: kept only until the next step has passed
    step 3   >>................

and what is kept is some windows for each step. The result is that of all windows together, of a clip that is whole
in memory (tests/generation/test_sweep.py).

Shapes: a frame is of latents, (1, C, 1, H, W); a window (1, C, T, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor

from kinolab.contracts.method import Denoised


@dataclass(frozen=True)
class Windows:
    """How places 0, 1, ... are covered: windows of `length` places, of which each shares `overlap` with the next."""

    length: int
    overlap: int = 0

    @property
    def stride(self) -> int:
        """Places from the beginning of a window to that of the next."""
        return self.length - self.overlap

    def starts(self, count: int) -> list[int]:
        """Where the windows begin that cover so many places; the last one ends with them.

        >>> Windows(4, 1).starts(9)
        [0, 3, 5]
        """
        last = max(0, count - self.length)
        return [*range(0, last, self.stride), last]

    def weights(self, start: int, count: int) -> Tensor:
        """What each place of a window counts in the blend, of `count` places in all (a large one: not known yet).

        It falls to a window's ends, where the network sees one side only; what lies farthest out does not count at all.
        At the ends of the clip there is no other side, and nothing falls.
        """
        places = torch.arange(min(self.length, count), dtype=torch.float64)
        outer = self.overlap // 4
        slope = max(1, self.overlap - 2 * outer)
        rising = ((places + 1 - outer) / (slope + 1)).clamp(0.0, 1.0)
        left = rising if start > 0 else torch.ones_like(places)
        right = rising.flip(0) if start + self.length < count else torch.ones_like(places)
        return torch.minimum(left, right)


Estimate = Callable[[int, Tensor, Tensor, int], Denoised]
"""estimate(step, z, told, start): a window z (1, C, T, H, W) after so many steps, what is told of its frames, and the
number of the first of them -> the estimate of the clean window."""
Step = Callable[[int, Tensor, Denoised, int], Tensor]
"""step(step, z, estimate, number): one frame of z and of its blended estimate -> the frame of z after the step."""
UNKNOWN = 2**40
"""The frames of a clip whose end is not known yet."""


@dataclass
class _Wave:
    """One step on its way along the clip."""

    z: dict[int, Tensor] = field(default_factory=dict)
    """Noisy frames before the step, by number."""
    sums: dict[int, tuple[Tensor, Tensor | None, float]] = field(default_factory=dict)
    """Of frames that some of their windows have seen: weighted estimates, variances, and weights."""
    window: int = 0
    """The number of the next window."""
    end: int = 0
    """Frames that have come."""


class Sweep:
    """The steps of one run along a clip.

    Args:
        steps: of the sampler.
        windows: how frames are covered.
        estimate, step: what is done to a window, and to a frame.
        passed: called after each window of each step.
    """

    def __init__(
        self,
        steps: int,
        windows: Windows,
        estimate: Estimate,
        step: Step,
        passed: Callable[[], None] = lambda: None,
    ) -> None:
        self.windows, self.estimate, self.step, self.passed = windows, estimate, step, passed
        self.waves = [_Wave() for _ in range(steps)]
        self.starts, self.told, self.count = list[int](), dict[int, Tensor](), UNKNOWN
        self._out: list[Tensor] = []

    @property
    def held(self) -> int:
        """Frames that are in memory, over all steps."""
        return sum(len(wave.z) + len(wave.sums) for wave in self.waves) + len(self.told)

    def run(self, frames: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
        """Frames of noise (1, C, 1, H, W) with what is told of each, in order -> the clean frames, in order."""
        first = self.waves[0]
        for z, told in frames:
            first.z[first.end], self.told[first.end] = z, told
            first.end += 1
            yield from self._advance()
        if first.end:
            self.count = first.end
            yield from self._advance()

    def _advance(self) -> Iterator[Tensor]:
        """Every wave as far as it comes."""
        self._plan()
        for number, wave in enumerate(self.waves):
            while self._ready(wave):
                self._pass(number, wave)
                self.passed()
        made, self._out = self._out, []
        yield from made

    def _plan(self) -> None:
        """The windows that are known by now: one with all its frames, the last one when the clip has ended."""
        w, known = self.windows, self.waves[0].end
        if self.count != UNKNOWN:
            self.starts = w.starts(self.count)
            return
        # The last window may begin anywhere behind the one before it, so a window is known when the next one fits too.
        while w.stride * (len(self.starts) + 1) + w.length <= known:
            self.starts.append(w.stride * len(self.starts))

    def _ready(self, wave: _Wave) -> bool:
        if wave.window >= len(self.starts):
            return False
        return wave.end >= min(self.starts[wave.window] + self.windows.length, self.count)

    def _pass(self, number: int, wave: _Wave) -> None:
        """One window of one step, and the step of all frames that no later window sees."""
        start = self.starts[wave.window]
        places = range(start, min(start + self.windows.length, self.count))
        z = torch.cat([wave.z[n] for n in places], 2)
        found = self.estimate(number, z, torch.cat([self.told[n] for n in places], 2), start)
        weights = self.windows.weights(start, self.count).tolist()
        for k, (n, weight) in enumerate(zip(places, weights, strict=True)):
            x, v, total = wave.sums.get(n, (None, None, 0.0))
            more, variance = found.sample[:, :, k : k + 1], found.variance
            x = weight * more if x is None else x + weight * more
            if variance is not None:
                own = weight * variance[:, :, k : k + 1]
                v = own if v is None else v + own
            wave.sums[n] = (x, v, total + weight)
        wave.window += 1
        whole = self.windows.stride * wave.window if self.count == UNKNOWN else places.stop
        if self.count != UNKNOWN and wave.window < len(self.starts):
            whole = self.starts[wave.window]
        for n in range(start, min(whole, places.stop)):
            if n in wave.sums:
                self._finish(number, wave, n)

    def _finish(self, number: int, wave: _Wave, n: int) -> None:
        """The step of one frame: it becomes one of the next wave, or a clean one."""
        x, v, total = wave.sums.pop(n)
        z = self.step(number, wave.z.pop(n), Denoised(x / total, None if v is None else v / total), n)
        if number + 1 < len(self.waves):
            after = self.waves[number + 1]
            after.z[n] = z
            after.end = n + 1
            return
        del self.told[n]
        self._out.append(z)


def over_tiles(
    size: tuple[int, int],
    tiles: tuple[Windows, Windows] | None,
    estimate: Callable[[tuple[slice, slice]], Denoised],
) -> Denoised:
    """The blend of estimates of tiles (height, width) of frames; none = of whole frames, at once.

    estimate: the part of the frames' height and width -> its estimate, (1, C, T, h, w).
    """
    if tiles is None:
        return estimate((slice(0, size[0]), slice(0, size[1])))
    down, across = tiles
    total = torch.zeros(size, dtype=torch.float64)
    sums: list[Tensor | None] = [None, None]
    for top, left in product(down.starts(size[0]), across.starts(size[1])):
        weight = torch.outer(down.weights(top, size[0]), across.weights(left, size[1]))
        part = (slice(top, top + weight.shape[0]), slice(left, left + weight.shape[1]))
        found = estimate(part)
        for k, values in enumerate((found.sample, found.variance)):
            if values is not None:
                if sums[k] is None:
                    sums[k] = values.new_zeros(*values.shape[:3], *size)
                sums[k][(..., *part)] += weight.to(values) * values  # type: ignore[index]
        total[part] += weight
    sample, variance = (None if s is None else s / total.to(s) for s in sums)
    assert sample is not None
    return Denoised(sample, variance)
