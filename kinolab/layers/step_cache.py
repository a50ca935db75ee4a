"""A cache of features between sampling steps, one for every transformer denoiser.

From one sampling step to the next the blocks of a diffusion transformer add nearly the same to their tokens. Where
that is so they are left out, and what they added when they last ran is added again:

    x + residual,    residual = blocks(x) - x of the last call in which the blocks ran.

Patch embedding, final layer and everything that depends on the time alone run in every call. Three ideas meet here.

*When* the blocks run, method `residual`, is TeaCache's (Liu et al. 2024, arXiv:2411.19108): the relative L1 change of
the first block's input, modulated by the time, tells cheaply how much the output will change; the changes of all calls
since the blocks last ran are added up and held against a threshold. Their polynomial that makes one threshold suit a
model is left out, as it has to be fitted to each; `kinolab tune` finds the threshold on the model itself instead.
Method `interval` is the broadcast of PAB (Zhao et al. 2024, arXiv:2408.12588) over a fixed number of steps, of all
blocks at once instead of attention by attention: the plain baseline.

*Guidance*: `guidance_every` runs the unconditional branch in some steps only (CFG-Cache of FasterCache, Lv et al. 2024,
arXiv:2410.19355). In between, the last difference of the two branches is taken from the conditional prediction. That is
their method with the weights of low and high frequencies left at 1.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kinolab.config import Config
from kinolab.contracts.options import ForwardOptions, takes_options
from kinolab.errors import InputError


class StepCacheConfig(Config):
    """When a denoiser's blocks are left out between sampling steps; the first and the last step always run."""

    method: Literal["residual", "interval"] = "residual"
    """Run the blocks when their input has changed enough (TeaCache), or in every n-th step (PAB's broadcast)."""
    threshold: float = Field(0.1, ge=0)
    """For `residual`: the added-up relative change of the first block's input at which the blocks run again. 0 never
    leaves them out; a batch runs where any clip of it has to."""
    every: int = Field(2, ge=1)
    """For `interval`: the blocks run in steps 0, n, 2n, ...; 1 never leaves them out."""
    start: float = Field(0.0, ge=0, le=1)
    """Share of the steps at the beginning in which everything runs."""
    end: float = Field(0.0, ge=0, le=1)
    """Share of the steps at the end in which everything runs."""
    guidance_every: int = Field(1, ge=1)
    """Run guidance's unconditional branch in steps 0, n, 2n, ... only; 1 = always."""

    @model_validator(mode="after")
    def _check(self) -> StepCacheConfig:
        if self.method == "residual" and self.every != 2:
            raise ValueError(f"every={self.every} is for the method interval: leave it 2, or choose interval")
        if self.method == "interval" and self.threshold != 0.1:
            raise ValueError(f"threshold={self.threshold:g} is for the method residual: leave it 0.1, or choose it")
        return self

    @property
    def reuses_features(self) -> bool:
        """Whether the blocks are ever left out."""
        return self.threshold > 0 if self.method == "residual" else self.every > 1


@dataclass
class _Branch:
    """What is known of one branch of guidance: the modulated input of its last call (B, ...), its change added up over
    the calls since the blocks ran (B,), and what the blocks added then (B, ...)."""

    seen: Tensor | None = None
    change: Tensor | None = None
    residual: Tensor | None = None


class StepCache:
    """The state of one sampling run after another, and how often the blocks were left out (`hits`) or ran (`misses`).

    `hits` and `misses` count calls of the denoiser over all runs since the cache was made; everything else begins anew
    with each run. The conditional and the unconditional branch have features of their own, whether guidance computes
    them as one batch or one after the other.

    >>> cache = StepCache(StepCacheConfig(threshold=0.2))
    >>> latents = diffusion.sample(denoiser, noise, conditions, cache=cache)
    >>> cache.hits, cache.misses
    """

    def __init__(self, config: StepCacheConfig) -> None:
        self.config = config
        self.hits = self.misses = 0
        self.begin(1)

    def begin(self, steps: int) -> None:
        """Forget everything of the last run; the next one has `steps` steps."""
        self.step, self.steps = 0, steps
        self.rows: tuple[str, ...] = ("conditional",)
        self.difference: Tensor | None = None
        self._branches: dict[str, _Branch] = {}
        self.recall, self.keep = _outside_compilation(StepCache._recall), _outside_compilation(StepCache._keep)

    def run(self, x: Tensor, blocks: Callable[[Tensor], Tensor], modulated: Callable[[Tensor], Tensor]) -> Tensor:
        """blocks(x), or x and what the blocks added when they last ran (`kinolab.contracts.options.BlockCache`)."""
        residual = self.recall(self, lambda: modulated(x))
        if residual is not None:
            return x + residual
        result = blocks(x)
        self.keep(self, result - x)
        return result

    @property
    def always(self) -> bool:
        """Whether everything runs in the present step: the first, the last, and those of `start` and `end`."""
        first = max(1, math.ceil(self.config.start * self.steps - 1e-9))
        last = self.steps - max(1, math.ceil(self.config.end * self.steps - 1e-9))
        return self.step < first or self.step >= last

    def counting(self, callback: Callable[[int, int, Tensor, Tensor], None] | None) -> Callable[..., None]:
        """A sampler's callback that tells the cache how many steps are done, and then calls `callback`.

        Steps are counted by the sampler, not by calls: heun calls the denoiser twice in a step.
        """

        def after_step(step: int, steps: int, z: Tensor, denoised: Tensor) -> None:
            self.step = step
            if callback is not None:
                callback(step, steps, z, denoised)

        return after_step

    def unconditional_due(self) -> bool:
        """Whether guidance has to run its unconditional branch in the present step."""
        return self.difference is None or self.always or self.step % self.config.guidance_every == 0

    def _recall(self, modulated: Callable[[], Tensor]) -> Tensor | None:
        """What the blocks added when they last ran, where it may be added again; None where they have to run."""
        branches = [self._branches.setdefault(name, _Branch()) for name in self.rows]
        known = all(branch.residual is not None for branch in branches)
        if not self.config.reuses_features:
            still = False
        elif self.config.method == "interval":
            still = self.step % self.config.every != 0
        else:
            for branch, seen in zip(branches, modulated().detach().chunk(len(branches)), strict=True):
                _add_change(branch, seen)
            still = known and all(bool((_change(branch) < self.config.threshold).all()) for branch in branches)
        if self.always or not known or not still:
            self.misses += 1
            return None
        self.hits += 1
        residuals = [cast(Tensor, branch.residual) for branch in branches]
        return residuals[0] if len(residuals) == 1 else torch.cat(residuals)

    def _keep(self, residual: Tensor) -> None:
        """Remember what the blocks added in this call."""
        if not self.config.reuses_features:
            return
        for name, part in zip(self.rows, residual.detach().chunk(len(self.rows)), strict=True):
            branch = self._branches[name]
            branch.residual, branch.change = part, None


def _add_change(branch: _Branch, seen: Tensor) -> None:
    """Add |seen - before|_1 / |before|_1 of each clip (eq. 4 of TeaCache) to the branch's change."""
    if branch.seen is not None:
        before = branch.seen.flatten(1).float()
        change = (seen.flatten(1) - before).abs().mean(1) / before.abs().mean(1).clamp(min=1e-12)
        branch.change = change if branch.change is None else branch.change + change
    branch.seen = seen


def _change(branch: _Branch) -> Tensor:
    assert branch.change is not None, "a branch with a residual was seen before"
    return branch.change


@functools.cache
def _disabled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compiler.disable(function)


def _outside_compilation(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as compiled code may call it: as plain Python, with compiled code before and after it.

    Where nothing was compiled the compiler is not loaded, which takes a second.
    """
    return _disabled(function) if "torch._dynamo" in sys.modules else function


@contextmanager
def caching(denoiser: object, cache: StepCache | None, steps: int) -> Iterator[ForwardOptions | None]:
    """One sampling run of `steps` steps: the options with which the denoiser leaves its blocks out as the cache says.

    Raises:
        InputError: for a denoiser that has no blocks to leave out.
    """
    if cache is None:
        yield None
        return
    if not takes_options(denoiser):
        raise InputError(f"a step cache needs a transformer denoiser, got {type(denoiser).__name__}: leave it out")
    cache.begin(steps)
    try:
        yield ForwardOptions(cache=cache)
    finally:
        cache.begin(1)
