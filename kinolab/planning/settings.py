"""The settings of sampling that `tune` tries, and the options of `kinolab generate` that give each of them."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field

from kinolab.config import Config, load_config
from kinolab.contracts.sampling import sampler_values
from kinolab.diffusion import SamplerConfig
from kinolab.diffusion.samplers.base import sampler_of
from kinolab.generation.request import SamplingConfig
from kinolab.methods import GuidanceConfig, StepCacheConfig
from kinolab.models import ModelConfig
from kinolab.runtime.precision import resolve
from kinolab.tables import SAMPLERS

Precision = Literal["float32", "bfloat16"]
SAME = ("reach", "methods", "stages")
"""What all settings that are tried have in common."""


def _deterministic(name: str) -> str:
    if not sampler_of(name).deterministic:
        known = ", ".join(n for n in SAMPLERS if SAMPLERS.get(n).deterministic)
        raise ValueError(f"{name} is stochastic, and its runs can't be held against each other; expected {known}")
    return name


Deterministic = Annotated[str, AfterValidator(_deterministic)]
"""The name of a sampler of which the same noise always becomes the same sample."""


class Setting(SamplingConfig):
    """One way to sample, in full."""

    sampler: SamplerConfig
    """Sampler and steps."""
    guidance: GuidanceConfig
    """Guidance and its interval."""
    precision: Precision = "float32"
    """What the networks compute in."""
    compile: bool = False
    """Compile the denoiser."""

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # methods and stages are mappings

    def dump(self) -> dict[str, Any]:
        """It as JSON has it, without what belongs to every setting and isn't set."""
        values = self.model_dump(mode="json")
        return {name: v for name, v in values.items() if v or name not in SAME}

    @property
    def title(self) -> str:
        """The setting in a few words; 1/n = in every n-th step."""
        parts = [f"{self.sampler.name} {self.sampler.steps}"]
        if self.cache is not None and self.cache.reuses_features:
            how = f"{self.cache.threshold:g}" if self.cache.method == "residual" else f"1/{self.cache.every}"
            parts.append(f"cache {how}")
        if self.cache is not None and self.cache.guidance_every > 1:
            parts.append(f"guided 1/{self.cache.guidance_every}")
        if self.guidance.active and self.guidance.interval != (0.0, 1.0):
            parts.append("guided {:g}-{:g}".format(*self.guidance.interval))
        return ", ".join([*parts, *(["bf16"] if self.precision == "bfloat16" else []), *["compiled"] * self.compile])

    def options(self, own: ModelConfig) -> str:
        """The options of `kinolab generate` that give this setting with a model whose own settings are `own`."""
        options = [f"--steps {self.sampler.steps}"]
        if self.sampler.name != own.sampler.name:
            options.insert(0, f"--sampler {self.sampler.name}")
        if self.guidance.interval != own.guidance.interval:
            options.append("--guidance-interval {:g},{:g}".format(*self.guidance.interval))
        if self.cache is not None and self.cache.reuses_features:
            every = self.cache.method == "interval"
            options.append(f"--cache-every {self.cache.every}" if every else f"--cache {self.cache.threshold:g}")
        if self.cache is not None and self.cache.guidance_every > 1:
            options.append(f"--guidance-every {self.cache.guidance_every}")
        options += [f"-s {shlex.quote(text)}" for text in self._fields(own)]
        return " ".join([*options, f"--precision {self.precision}", *["--compile"] * self.compile])

    def _fields(self, own: ModelConfig) -> Iterator[str]:
        """What no option says: `field=value` of all that a model would otherwise do in its own way."""
        sampler = sampler_values(own.sampler.model_dump(), {"name": self.sampler.name, "steps": self.sampler.steps})
        guidance = own.guidance.model_dump() | {"interval": self.guidance.interval}
        for group, usual in (("sampler", sampler), ("guidance", guidance)):
            expected = load_config(type(getattr(self, group)), usual).model_dump(mode="json")
            for name, value in getattr(self, group).model_dump(mode="json").items():
                if value != expected[name]:
                    yield f"{group}.{name}={json.dumps(value)}"
        for name, value in self.model_dump(mode="json", include=set(SAME)).items():
            if value:
                yield f"{name}={json.dumps(value)}"


class Lists(Config):
    """What is tried; an empty list stands for a choice made from the model's own settings."""

    full_steps: int | None = Field(None, ge=1)
    """Steps of the full run that everything is held against; none = twice the model's own."""
    full_sampler: Deterministic | None = None
    """Sampler of the full run; none = the model's own."""
    steps: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Numbers of steps; none = the model's own, a half and a third of them."""
    samplers: tuple[Deterministic, ...] = ()
    """Samplers; none = that of the full run, dpmpp_2m and heun."""
    intervals: tuple[tuple[float, float], ...] = ((0.2, 1.0), (0.0, 0.8))
    """Fractions of time with guidance, from clean (0) to noise (1), beside the model's own."""
    guidance_every: tuple[Annotated[int, Field(ge=2)], ...] = (2,)
    """Run guidance's unconditional branch in every n-th step only."""
    thresholds: tuple[Annotated[float, Field(gt=0)], ...] = (0.05, 0.1, 0.2)
    """Thresholds of the step cache."""
    cache_every: tuple[Annotated[int, Field(ge=2)], ...] = (2,)
    """Fixed intervals of the step cache, for comparison."""
    precisions: tuple[Precision, ...] = ()
    """none = float32, and bfloat16 too where it is faster on this machine or everything is tried."""
    compile: bool | None = None
    """Try compilation too, which takes minutes; none = only where everything is tried."""


def full_run(own: ModelConfig, lists: Lists) -> tuple[Setting, list[str]]:
    """The run that everything is held against, in float32 without a cache, and what to know about it."""
    name, notes = lists.full_sampler, list[str]()
    if name is None and (own.sampler.name == "ddpm" or own.sampler.eta > 0):
        name = "ddim"
        notes.append(f"the model's own {own.sampler.name} draws new noise in every step; ddim stands in for it")
    sampler = own.sampler.model_copy(update={"steps": lists.full_steps or 2 * own.sampler.steps})
    if name is not None:
        sampler = SamplerConfig(name=name, steps=sampler.steps, spacing=own.sampler.spacing)
    return Setting(sampler=sampler, guidance=own.guidance), notes


def quick(own: ModelConfig, lists: Lists, device: torch.device) -> list[Setting]:
    """The model's own setting, one change of it at a time, and a few changes that go well together."""
    base = _base(own, lists, device)
    steps, samplers, caches = _steps(own, lists), _samplers(base, lists), _caches(lists)
    found = [base]
    precisions: Iterable[Precision] = lists.precisions or ("float32",)
    found += [base.model_copy(update={"precision": p}) for p in precisions]
    found += [_changed(base, {"steps": n}) for n in steps if n != base.sampler.steps]
    half = steps[1] if len(steps) > 1 else steps[0]
    found += [_changed(base, {"name": name, "steps": half}) for name in samplers if name != base.sampler.name]
    found += [base.model_copy(update={"cache": cache}) for cache in caches]
    if base.guidance.active:
        found += [_guided(base, interval) for interval in lists.intervals]
        found += [_guidance_cached(base, n) for n in lists.guidance_every]
    if lists.thresholds:
        middle = StepCacheConfig(threshold=lists.thresholds[len(lists.thresholds) // 2])
        found += [_changed(base, {"name": name, "steps": half}, cache=middle) for name in samplers]
    if lists.compile:
        found.append(base.model_copy(update={"compile": True}))
    return list(dict.fromkeys(found))


def grid(own: ModelConfig, lists: Lists, device: torch.device) -> list[Setting]:
    """Every combination of the lists."""
    base = _base(own, lists, device)
    caches: list[StepCacheConfig | None] = [None, *_caches(lists)]
    if base.guidance.active:
        reuse = [c.model_dump() if c is not None else {"threshold": 0.0} for c in caches]
        caches += [
            StepCacheConfig.model_validate(c | {"guidance_every": n}) for c in reuse for n in lists.guidance_every
        ]
    intervals = [base.guidance.interval, *(lists.intervals if base.guidance.active else ())]
    precisions: Iterable[Precision] = lists.precisions or ("float32", "bfloat16")
    compiled = [False] if lists.compile is False else [False, True]
    found = []
    for n, name, interval, precision, compile, cache in itertools.product(
        _steps(own, lists), _samplers(base, lists), intervals, precisions, compiled, caches
    ):
        setting = _guided(_changed(base, {"name": name, "steps": n}), interval)
        found.append(setting.model_copy(update={"precision": precision, "compile": compile, "cache": cache}))
    return list(dict.fromkeys(found))


def _base(own: ModelConfig, lists: Lists, device: torch.device) -> Setting:
    """The full run's sampler with the model's own steps, in the precision that is faster here."""
    full, _ = full_run(own, lists)
    precision = str(resolve("auto", device)).removeprefix("torch.")
    if lists.precisions and precision not in lists.precisions:
        precision = lists.precisions[0]
    return _changed(full, {"steps": _steps(own, lists)[0]}).model_copy(update={"precision": precision})


def _steps(own: ModelConfig, lists: Lists) -> tuple[int, ...]:
    count = own.sampler.steps
    return tuple(dict.fromkeys(lists.steps or (count, max(1, round(count / 2)), max(1, round(count / 3)))))


def _samplers(base: Setting, lists: Lists) -> tuple[str, ...]:
    return lists.samplers or tuple(dict.fromkeys((base.sampler.name, "dpmpp_2m", "heun")))


def _changed(setting: Setting, changes: dict[str, Any], cache: StepCacheConfig | None = None) -> Setting:
    """The setting with another sampler or other steps."""
    sampler = SamplerConfig.model_validate(setting.sampler.model_dump() | changes)
    return setting.model_copy(update={"sampler": sampler, "cache": setting.cache if cache is None else cache})


def _guided(setting: Setting, interval: tuple[float, float]) -> Setting:
    guidance = GuidanceConfig.model_validate(setting.guidance.model_dump() | {"interval": interval})
    return setting.model_copy(update={"guidance": guidance})


def _guidance_cached(setting: Setting, every: int) -> Setting:
    return setting.model_copy(update={"cache": StepCacheConfig(threshold=0.0, guidance_every=every)})


def _caches(lists: Lists) -> list[StepCacheConfig]:
    found = [StepCacheConfig(threshold=t) for t in lists.thresholds]
    return found + [StepCacheConfig(method="interval", every=n) for n in lists.cache_every]
