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
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kinolab.config import Config as BaseConfig
from kinolab.contracts.method import Call, Method, Predict, Run
from kinolab.contracts.options import takes_options
from kinolab.errors import InputError


class StepCacheConfig(BaseConfig):
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


class StepCache(Method):
    """The method, and how often it left the blocks out (`hits`) or they ran (`misses`).

    `hits` and `misses` count calls of the denoiser over all runs since this was made; everything else belongs to one
    run (`CachedRun`).

    >>> cache = StepCache(StepCacheConfig(threshold=0.2))
    >>> latents = diffusion.sample(denoiser, noise, conditions, methods=[cache])
    >>> cache.hits, cache.misses
    """

    Config: ClassVar[type[BaseConfig]] = StepCacheConfig
    option = "cache"
    whole_clips = True
    config: StepCacheConfig

    def __init__(self, config: StepCacheConfig | None = None) -> None:
        super().__init__(config)
        self.hits = self.misses = 0
        self._counting = threading.Lock()

    def count(self, *, hit: bool) -> None:
        """Count one call of the denoiser."""
        with self._counting:
            self.hits, self.misses = self.hits + hit, self.misses + (not hit)

    def check(self, run: Run) -> None:
        """Raises InputError for a denoiser without blocks to leave out, and beside what follows a gradient."""
        if any(method.follows_gradient for method in run.methods):
            raise InputError(
                "a step cache cuts the gradient that reconstruction guidance follows: leave it out, or use replacement"
            )
        if not takes_options(run.denoiser):
            name = type(run.denoiser).__name__
            raise InputError(f"a step cache needs a transformer denoiser, got {name}: leave it out")

    def network(self, inner: Predict, run: Run) -> Predict:
        """Leaves out blocks, and branches other than the first."""
        cached, differences = CachedRun(self, run), dict[str, Tensor]()

        def predict(call: Call) -> dict[str, Tensor]:
            call = replace(call, options=replace(call.options, cache=cached))
            first, *others = call.branches
            due = cached.always or run.step % self.config.guidance_every == 0
            if others and not due and all(name in differences for name in others):
                found = inner(replace(call, branches={first: call.branches[first]}))
                known = found[first][:, : run.channels]
                return found | {name: known - differences[name] for name in others}
            found = inner(call)
            if self.config.guidance_every > 1:
                differences.update({name: (found[first] - found[name])[:, : run.channels] for name in others})
            return found

        return predict


@dataclass
class _Branch:
    """What is known of one branch of guidance: the modulated input of its last call (B, ...), its change added up over
    the calls since the blocks ran (B,), and what the blocks added then (B, ...)."""

    seen: Tensor | None = None
    change: Tensor | None = None
    residual: Tensor | None = None


class CachedRun:
    """What a step cache remembers of one run, branch by branch (`kinolab.contracts.options.BlockCache`).

    The branches of guidance have features of their own, whether they are computed as one batch or one after the other.
    """

    def __init__(self, cache: StepCache, of: Run) -> None:
        self.cache, self.config, self.sampling = cache, cache.config, of
        self.branches: dict[str, _Branch] = {}

    @property
    def always(self) -> bool:
        """Whether everything runs in the present step: the first, the last, and those of `start` and `end`."""
        step, steps = self.sampling.step, self.sampling.steps
        first = max(1, math.ceil(self.config.start * steps - 1e-9))
        last = steps - max(1, math.ceil(self.config.end * steps - 1e-9))
        return step < first or step >= last

    def of(self, branches: tuple[str, ...]) -> CachedRows:
        """The cache for a batch that holds the rows of these branches, one after the other."""
        return CachedRows(self, branches)

    def within(self, network: str) -> CachedRows:
        """As `CachedRows.within`, of one branch."""
        return self.of(("conditional",)).within(network)

    def run(self, x: Tensor, blocks: Callable[[Tensor], Tensor], modulated: Callable[[Tensor], Tensor]) -> Tensor:
        """As `CachedRows.run`, of one branch."""
        return self.of(("conditional",)).run(x, blocks, modulated)


class CachedRows:
    """The cache of a run for one call of the denoiser, which knows whose rows the batch holds."""

    def __init__(self, run: CachedRun, names: tuple[str, ...]) -> None:
        self.cached, self.names = run, names
        self.hit: bool | None = None
        self.recall, self.keep = _outside_compilation(CachedRows._recall), _outside_compilation(CachedRows._keep)

    def of(self, branches: tuple[str, ...]) -> CachedRows:
        """The same cache for other rows."""
        return CachedRows(self.cached, branches)

    def within(self, network: str) -> CachedRows:
        """The same cache for the features of one of several networks."""
        return CachedRows(self.cached, tuple(f"{network}: {name}" for name in self.names))

    def run(self, x: Tensor, blocks: Callable[[Tensor], Tensor], modulated: Callable[[Tensor], Tensor]) -> Tensor:
        """blocks(x), or x and what the blocks added when they last ran."""
        residual = self.recall(self, lambda: modulated(x))
        if residual is not None:
            return x + residual
        result = blocks(x)
        self.keep(self, result - x)
        return result

    def _recall(self, modulated: Callable[[], Tensor]) -> Tensor | None:
        """What the blocks added when they last ran, where it may be added again; None where they have to run."""
        cached = self.cached
        branches = [cached.branches.setdefault(name, _Branch()) for name in self.names]
        # The compiler may fail at the code behind the cache; the call is then made again, and counts once.
        if self.hit is None:
            self.hit = self._decide(branches, modulated)
            cached.cache.count(hit=self.hit)
        if not self.hit:
            return None
        residuals = [cast(Tensor, branch.residual) for branch in branches]
        return residuals[0] if len(residuals) == 1 else torch.cat(residuals)

    def _decide(self, branches: list[_Branch], modulated: Callable[[], Tensor]) -> bool:
        """Whether the blocks are left out."""
        cached, config = self.cached, self.cached.config
        known = all(branch.residual is not None for branch in branches)
        if not config.reuses_features:
            still = False
        elif config.method == "interval":
            still = cached.sampling.step % config.every != 0
        else:
            for branch, seen in zip(branches, modulated().detach().chunk(len(branches)), strict=True):
                _add_change(branch, seen)
            still = known and all(bool((_change(branch) < config.threshold).all()) for branch in branches)
        return known and still and not cached.always

    def _keep(self, residual: Tensor) -> None:
        """Remember what the blocks added in this call."""
        if not self.cached.config.reuses_features:
            return
        for name, part in zip(self.names, residual.detach().chunk(len(self.names)), strict=True):
            branch = self.cached.branches[name]
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
