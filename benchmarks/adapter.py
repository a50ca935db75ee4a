"""All that the compared quantities use of Kinolab besides commands and recipes: its adapter to any version.

Where a version keeps or calls something else, this is the one place to say so. The file imports nothing of the project
by name, so that one copy of it runs with any version.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

Values = dict[str, Tensor]
How = Mapping[str, Mapping[str, Any]]
"""How to sample: fields of the `sampler`, the `guidance`, the step `cache` and the `steering`; none = the model's."""

PLACES = {
    "VideoModel": ("kinolab.model", "kinolab.models", "kinolab.models.model", "kinolab.models.folder"),
    "Request": ("kinolab.request", "kinolab.contracts", "kinolab.contracts.request"),
    "load_autoencoder": ("kinolab.model", "kinolab.models", "kinolab.models.folder"),
    "sampler": ("kinolab.diffusion:SamplerConfig", "kinolab.diffusion.samplers:SamplerConfig"),
    "guidance": ("kinolab.diffusion:GuidanceConfig", "kinolab.methods:GuidanceConfig",
                 "kinolab.methods.guidance:GuidanceConfig"),
    "steering": ("kinolab.diffusion:SteeringConfig", "kinolab.methods:SteeringConfig",
                 "kinolab.methods.steering:SteeringConfig"),
    "StepCache": ("kinolab.layers.step_cache", "kinolab.methods", "kinolab.methods.step_cache"),
    "cache": ("kinolab.layers.step_cache:StepCacheConfig", "kinolab.methods:StepCacheConfig",
              "kinolab.methods.step_cache:StepCacheConfig"),
    "train": ("kinolab.training.run", "kinolab.training"),
    "save": ("kinolab.checkpoints",),
    "CacheConfig": ("kinolab.data", "kinolab.data.cache"),
    "CacheSource": ("kinolab.data", "kinolab.data.cache"),
    "read": ("kinolab.video",),
    "main": ("kinolab.cli",),
}  # fmt: skip
"""Where a version may keep what is used of it, as `module:name` where it has another name there; the first module that
has it counts. What moves gets a line."""


def find(name: str) -> Any:
    """The function or class of a name, wherever this version keeps it."""
    for place in PLACES[name]:
        module, _, own = place.partition(":")
        try:
            found = getattr(importlib.import_module(module), own or name, None)
        except ModuleNotFoundError:
            continue
        if found is not None:
            return found
    raise LookupError(f"{name}: in none of {', '.join(PLACES[name])}; add where it is now to PLACES")


@lru_cache(maxsize=4)
def load(path: str) -> Any:
    """A model in float32. The last ones are kept, as several quantities are computed with each."""
    return find("VideoModel").load(path, precision="float32")


def settings(how: How) -> dict[str, Any]:
    """Arguments of `sample_latents` and `complete`."""
    made = {name: find(name)(**fields) for name, fields in how.items()}
    if "cache" in made:
        made["cache"] = find("StepCache")(made["cache"])
    return made


def predicted(model: Any, z: Tensor, t: Tensor, requests: Sequence[Any]) -> Tensor:
    """One call of a model's denoiser."""
    found: Tensor = model.denoiser(z, t, model.conditions(requests))
    return found


def sampled(model: Any, requests: Sequence[Any], how: How) -> Tensor:
    """Latents of requests."""
    found: Tensor = model.sample_latents(requests, **settings(how))
    return found


def completed(model: Any, clip: Tensor, mask: Tensor, requests: Sequence[Any], how: How) -> Tensor:
    """A clip whose masked part is generated."""
    found: Tensor = model.complete(clip, mask, requests, **settings(how))
    return found


def trained(recipe: Path, run: Path, steps: int) -> None:
    """The first steps of a recipe."""
    find("train")(recipe, run, until=steps)
