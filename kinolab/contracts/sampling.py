"""How a run of sampling is settled: what is asked for, and the model's own settings for all that is not.

The command line, a call of the library and a rerun all get their defaults here, and nowhere else. A group of settings
is asked for whole, as an object of its config, or by the fields that differ from the model's own, as a mapping; a
single word or number stands for the field that is meant most often (`sampler: heun`, `guidance: 4`, `cache: 0.1`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from kinolab.config import Config, load_config

S = TypeVar("S", bound=Config)

SHORT = {"sampler": "name", "guidance": "scale", "cache": "threshold"}
"""Group of settings -> its field that a single value stands for."""
WAYS = {"scale": 1.0, "frames": (), "scales": ()}
"""The fields of guidance that say how far, each in place of the others, and what they are where another one is."""
OF_ANY_SAMPLER = ("steps", "spacing")
"""What another sampler than the model's own takes over from it; eta and variance are one sampler's."""


def fields(group: str, asked: Any) -> dict[str, Any]:
    """The fields that are asked for of a group; none where nothing is, all of an object's."""
    if asked is None:
        return {}
    if isinstance(asked, Config):
        return asked.model_dump()
    return dict(asked) if isinstance(asked, Mapping) else {SHORT[group]: asked}


def expanded(overrides: Sequence[str]) -> list[str]:
    """Overrides `key=value` with the short ones written out: `sampler=heun` as `sampler.name=heun`."""
    found = []
    for text in overrides:
        key, sep, value = text.partition("=")
        whole = key not in SHORT or not value or value.lstrip().startswith("{")
        found.append(text if whole else f"{key}.{SHORT[key]}{sep}{value}")
    return found


def sampler_values(own: Mapping[str, Any], asked: Any) -> dict[str, Any]:
    """A sampler's fields: those asked for, and the model's own for the rest; of another sampler only its steps."""
    given = fields("sampler", asked)
    kept = own if given.get("name", own["name"]) == own["name"] else {name: own[name] for name in OF_ANY_SAMPLER}
    return {**kept, **given}


def guidance_values(own: Mapping[str, Any], asked: Any, *, told: bool, towards_given: float = 1.0) -> dict[str, Any]:
    """Guidance's fields: those asked for, and the model's own for the rest; off where there is nothing to guide by.

    told: whether there is a prompt, a label or a negative prompt. towards_given: the scale towards a given part that
    takes the place of the model's own guidance where there is none; 1 = no such scale.
    """
    given = fields("guidance", asked)
    if towards_given != 1.0 and not told:
        own = {**own, **WAYS, "scales": {"given": towards_given}, "oscillate": None, "of": ()}
    if "scale" in given or given.get("frames") or given.get("scales"):  # in place of the model's own way
        own = {**own, **WAYS}
    settled = {**own, **given}
    between = own.get("oscillate")  # goes between the model's own scale and a lower one
    if between and "oscillate" not in given and (settled["scale"] < between["low"] or _other_way(settled)):
        settled["oscillate"] = None
    # Of other conditions than a prompt it is known only when the run is made (`kinolab.methods.Guidance.check`).
    off = "scale" not in given and not told and not settled.get("of")
    if not off:
        return settled
    return {**settled, "scale": 1.0, **({"oscillate": None} if "oscillate" in settled else {})}


def _other_way(settled: Mapping[str, Any]) -> bool:
    """Whether guidance's fields say how far by another field than scale."""
    return bool(settled.get("frames") or settled.get("scales"))


def cache_values(asked: Any) -> dict[str, Any] | None:
    """The step cache's fields: none is no cache; `every` alone means its method, `guidance_every` alone no reuse."""
    if asked is None:
        return None
    given = fields("cache", asked)
    if "method" not in given and "threshold" not in given:
        if "every" in given:
            return {"method": "interval", **given}
        if "guidance_every" in given:
            return {"threshold": 0.0, **given}
    return given


def settled_sampler(own: S, asked: Any) -> S:
    """The model's own sampler, with what is asked for in its place.

    Raises:
        InputError: for fields that it doesn't have, or values that they don't take.
    """
    if isinstance(asked, type(own)):
        return asked
    return load_config(type(own), sampler_values(own.model_dump(), asked), name="sampler")


def settled_guidance(own: S, asked: Any, *, told: bool, towards_given: float = 1.0) -> S:
    """The model's own guidance, with what is asked for in its place.

    Raises:
        InputError: for fields that it doesn't have, or values that they don't take.
    """
    if isinstance(asked, type(own)):
        return asked
    values = guidance_values(own.model_dump(), asked, told=told, towards_given=towards_given)
    return load_config(type(own), values, name="guidance")
