"""What a denoiser is told of a clip: one file per condition, used by training and sampling alike.

To add one: a file here with a `Condition` (its `name` is the table's key and the port's name), a line in the table
below, and a port in a denoiser, which all of ours have for any `vectors` and `fields` of their configs.
`text/` holds the text encoders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, SerializeAsAny

from kinolab.conditioning.base import (
    Condition,
    ConditionConfig,
    Draws,
    FieldCondition,
    Setting,
    TokensCondition,
    VectorCondition,
    request_draws,
    uniform,
)
from kinolab.conditioning.control import Canny, Control, Depth, Edges, Pose, Trajectory
from kinolab.conditioning.focus import Focus
from kinolab.conditioning.fps import Fps
from kinolab.conditioning.given import Given, GivenPart
from kinolab.conditioning.guidance_scale import GuidanceScale
from kinolab.conditioning.image import Image
from kinolab.conditioning.image_embedding import ImageEmbedding
from kinolab.conditioning.image_tokens import ImageTokens
from kinolab.conditioning.images import joined
from kinolab.conditioning.label import Label, label_index, without_label
from kinolab.conditioning.low_resolution import LowResolution
from kinolab.conditioning.maps import MAPS
from kinolab.conditioning.motion_bucket import MotionBucket
from kinolab.conditioning.noise_augmentation import NoiseAugmentation
from kinolab.conditioning.noise_level import NoiseLevel
from kinolab.conditioning.prompt import Prompt, dropped, negative, unasked, warn_blank
from kinolab.config import load_config
from kinolab.contracts.conditions import Conditions
from kinolab.contracts.examples import Example
from kinolab.contracts.request import Request
from kinolab.contracts.table import Table
from kinolab.errors import InputError
from kinolab.layers.masking import partly_given
from kinolab.tasks import TasksConfig

__all__ = [
    "CONDITIONS",
    "MAPS",
    "Condition",
    "ConditionConfig",
    "ConditionsConfig",
    "Draws",
    "FieldCondition",
    "GivenPart",
    "Rates",
    "Setting",
    "TokensCondition",
    "VectorCondition",
    "asked_files",
    "check_asked",
    "check_conditions",
    "drop",
    "dropped",
    "fields_of_images",
    "joined",
    "label_index",
    "negative",
    "of_examples",
    "of_requests",
    "request_draws",
    "without_label",
]

CONDITIONS: Table[Condition[Any]] = Table(
    "condition",
    {
        # Recipes and requests have fields of their own for these.
        "with fields": {"text": Prompt, "label": Label, "fps": Fps, "given": Given},
        "": {
            "noise_level": NoiseLevel,
            "low_resolution": LowResolution,
            "control": Control,
            "edges": Edges,
            "canny": Canny,
            "depth": Depth,
            "pose": Pose,
            "trajectory": Trajectory,
            "focus": Focus,
            "motion_bucket": MotionBucket,
            "noise_augmentation": NoiseAugmentation,
            "image": Image,
            "image_tokens": ImageTokens,
            "image_embedding": ImageEmbedding,
            "guidance_scale": GuidanceScale,
        },
    },
)
"""In the order in which they are told: one may look at what those before it told."""
FIXED = CONDITIONS.names("with fields")


def read_settings(values: Any) -> Any:
    """The configs of conditions, each of the class of its name.

    Raises:
        InputError: for a name that is no condition, or that has fields of its own in recipes; names the nearest.
    """
    if not isinstance(values, Mapping):
        return values
    found = {}
    for name, value in values.items():
        check_asked([name])
        cls = CONDITIONS.get(name).Config
        found[name] = value if isinstance(value, cls) else load_config(cls, value or {}, name=f"conditions.{name}")
    return found


ConditionsConfig = Annotated[dict[str, SerializeAsAny[ConditionConfig]], BeforeValidator(read_settings)]
"""A recipe's or a model's settings of conditions, by name; one that is left out has its defaults."""


def check_asked(names: Iterable[str]) -> None:
    """Raises InputError for what is no condition, or one that recipes and requests have fields of their own for."""
    for name in names:
        if name in FIXED:
            raise InputError(f"{name} has fields of its own; here stand {CONDITIONS.help('')}")
        CONDITIONS.get(name)


def asked_files(values: Mapping[str, Any]) -> list[Path]:
    """The files that a request's conditions name."""
    return [path for name, value in values.items() for path in CONDITIONS.get(name)().files(value)]


def taken(setting: Setting, tasks: TasksConfig | None = None) -> list[Condition[Any]]:
    """The conditions that a model takes, in the table's order; `tasks` are what training examples are given."""
    made: list[Condition[Any]] = []
    for name in CONDITIONS:
        cls, config = CONDITIONS.get(name), setting.settings.get(name)
        condition = Given(tasks=tasks) if cls is Given else cls(config)
        made += [condition] if condition.taken(setting) else []
    return made


def check_conditions(setting: Setting) -> None:
    """Check that every port of a denoiser belongs to a condition, and every condition that is set to a port.

    Raises:
        InputError: where one does not; says which there are.
    """
    known = {port for name in CONDITIONS for port in (CONDITIONS.get(name).ports or (name,))}
    for name in setting.spec.ports:
        if name not in known:
            expected = f"expected one of {CONDITIONS.help('')}"
            raise InputError(f"the denoiser has a port {name!r}, which no condition tells; {expected}")
    for name in setting.settings:
        if name not in setting.spec.ports:
            raise InputError(f"conditions.{name}: the denoiser takes no {name}; name it in its vectors or fields")


def of_requests(requests: Sequence[Request], setting: Setting) -> Conditions:
    """The conditions of a batch of requests.

    Raises:
        InputError: for what the model can't take.
    """
    made = taken(setting)
    _refuse(requests, setting, made)
    warn_blank(requests)
    told = {condition.name: [condition.asked(r, setting) for r in requests] for condition in made}
    conditions = _tell(made, told, setting, request_draws(requests))
    # An empty prompt and no label say the same as the null condition where that is not learned.
    if setting.null_prompt == "learned":
        conditions = _unasked(conditions, told, setting)
    return conditions


def of_examples(
    examples: Sequence[Example], setting: Setting, draws: Draws, tasks: TasksConfig | None = None, *, whole: bool = True
) -> Conditions:
    """The conditions of training examples.

    Args:
        examples: clips or latents, with what is known of them.
        setting: what conditions are made with.
        draws: the randomness of each.
        tasks: what is given of them.
        whole: mark rows null of which neither prompt nor label is known, as a request for nothing is.
    """
    made = taken(setting, tasks)
    told = {condition.name: condition.shown(examples, setting, draws) for condition in made}
    conditions = _tell(made, told, setting, draws)
    return _unasked(conditions, told, setting) if whole else conditions


def fields_of_images(examples: Sequence[Example], setting: Setting, draws: Draws, before: Conditions) -> Conditions:
    """The fields that joint single images are told, one frame each; `before` is what else their clips are told."""
    fields = [c for c in taken(setting) if isinstance(c, FieldCondition) and c.name in before]
    told: dict[str, Sequence[Any]] = {condition.name: condition.shown(examples, setting, draws) for condition in fields}
    found = Conditions()
    for condition in fields:
        found = found.told(condition.tell(told[condition.name], setting, before, draws))
    return found


@dataclass(frozen=True)
class Rates:
    """Shares of samples that are trained without their prompt and label (`given_prompt`: of those of which something is
    given, None = alike), and without their label alone. All other conditions have theirs in their config."""

    prompt: float = 0.0
    given_prompt: float | None = None
    label: float = 0.0


def drop(conditions: Conditions, setting: Setting, draws: Draws, rates: Rates) -> Conditions:
    """Conditions of training with some left out in some rows, so that sampling can do without them, or guide away."""
    if {"label", "text", "pooled"} & set(conditions):
        rows = uniform(draws("dropout"))
        rate = torch.full(rows.shape, rates.prompt)
        if rates.given_prompt is not None and conditions.mask is not None:
            some = partly_given(conditions.mask).flatten(1).any(1).cpu()
            rate = torch.where(some, rates.given_prompt, rate)
        conditions = dropped(conditions, rows < rate, setting)
    if conditions.label is not None and rates.label:
        rows = (uniform(draws("label")) < rates.label).to(setting.device)
        conditions = conditions.replace(label=without_label(conditions.label, rows, setting.spec))
    for condition in taken(setting):
        if condition.name in FIXED or condition.name not in conditions or not condition.config.dropout:
            continue
        conditions = conditions.with_null(condition.dropped(draws).to(setting.device), condition.tells)
    return conditions


def _tell(
    made: Sequence[Condition[Any]], told: Mapping[str, Sequence[Any]], setting: Setting, draws: Draws
) -> Conditions:
    conditions = Conditions()
    for condition in made:
        conditions = conditions.told(condition.tell(told[condition.name], setting, conditions, draws))
    return conditions


def _unasked(conditions: Conditions, told: Mapping[str, Sequence[Any]], setting: Setting) -> Conditions:
    """The conditions with the null one in rows that are told neither prompt nor label; as they are where none is."""
    asked = [told[name] for name in ("text", "label") if name in told]
    if not asked or not {"label", "text", "pooled"} & set(conditions):
        return conditions
    rows = torch.tensor(unasked(asked, setting))
    return dropped(conditions, rows, setting) if bool(rows.any()) else conditions


def _refuse(requests: Sequence[Request], setting: Setting, made: Sequence[Condition[Any]]) -> None:
    """Raises InputError for what a request asks of a model that doesn't take it; says what it takes."""
    names = {condition.name for condition in made}
    takes = [c.called for c in made if c.name not in ("fps", "given")]
    says = f"it takes {' and '.join(takes)}" if takes else "it is unconditional"
    for request in requests:
        check_asked(name for name in request.conditions if name != "given")
    for name in CONDITIONS:
        condition = CONDITIONS.get(name)()
        if name not in names and any(condition.asks(r) for r in requests):
            raise InputError(f"this model takes no {condition.called.removeprefix('a ')}; {says}")
