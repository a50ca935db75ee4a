"""The prompt: token states (`text`) and a pooled embedding (`pooled`) of one caption, by the model's text encoder.

Its null is the denoiser's learned one, or the empty prompt's embedding (as in Stable Diffusion 3).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kinolab.conditioning.base import Condition, Draws, Setting
from kinolab.conditioning.label import without_label
from kinolab.contracts.conditions import PROMPT, Conditions
from kinolab.contracts.examples import Example
from kinolab.contracts.request import Request


class Prompt(Condition[str]):
    """What a clip shows, in words. In training it falls, with the label, at the recipe's rate `condition_dropout`."""

    name = "text"
    ports = ("text", "pooled")

    @property
    def called(self) -> str:
        """What an error calls it."""
        return "a prompt"

    def taken(self, setting: Setting) -> bool:
        """Whether the model has a text encoder, or a prior that reads prompts for it."""
        return setting.embed is not None or setting.imagine is not None

    def asks(self, request: Request) -> bool:
        """Whether there is a prompt, or one to move away from."""
        return request.prompt is not None or request.negative is not None

    def asked(self, request: Request, setting: Setting) -> str | None:
        """The request's prompt."""
        return request.prompt

    def shown(self, examples: Sequence[Example], setting: Setting, draws: Draws) -> Sequence[str | None]:
        """The examples' captions."""
        return [e.caption or None for e in examples]

    def tell(self, told: Sequence[str | None], setting: Setting, before: Conditions, draws: Draws) -> Conditions:
        """States, their mask and the pooled embedding of prompts; those that are not there as the empty one."""
        return embedded([prompt or "" for prompt in told], setting)


def embedded(prompts: Sequence[str], setting: Setting) -> Conditions:
    """The embeddings of prompts, as far as the denoiser takes them."""
    spec = setting.spec
    if setting.embed is None or not (spec.text_dim or spec.pooled_dim):
        return Conditions()
    found = setting.embed(prompts)
    text, mask = (found.states, found.mask) if spec.text_dim else (None, None)
    pooled = found.pooled if spec.pooled_dim else None
    return Conditions(text=text, text_mask=mask, pooled=pooled).to(setting.device)


def warn_blank(requests: Sequence[Request]) -> None:
    """Warn of prompts with nothing in them."""
    blank = sum(r.blank for r in requests)
    if blank:
        warnings.warn(f"empty prompt ({blank} of {len(requests)}): nothing is asked for there", stacklevel=5)


def unasked(told: Sequence[Sequence[Any | None]], setting: Setting) -> list[bool]:
    """Which rows are told neither a prompt nor a label, so that they have the null condition, in training as in
    sampling. `told` holds, for prompt and label as far as the model takes them, one thing for each row.

    A model that knows a single class and nothing else is told of it always, and has no such rows.
    """
    spec = setting.spec
    only = spec.num_classes > 0 and spec.unlabelled != spec.num_classes
    return [not only and all(thing is None for thing in row) for row in zip(*told, strict=True)]


def dropped(conditions: Conditions, rows: Tensor, setting: Setting) -> Conditions:
    """Conditions whose rows (B,) have no prompt: the learned null one, or the empty prompt without a label."""
    rows = rows.to(setting.device)
    if setting.embed is None or setting.null_prompt == "learned":
        return conditions.with_null(rows)
    empty = embedded([""], setting)
    changes: dict[str, Tensor] = {}
    for name in ("text", "text_mask", "pooled"):
        value, none = getattr(conditions, name), getattr(empty, name)
        if value is not None:
            changes[name] = torch.where(rows.view(-1, *[1] * (value.ndim - 1)), none.to(value), value)
    if conditions.label is not None:
        changes["label"] = without_label(conditions.label, rows, setting.spec)
    return conditions.replace(**changes)


def negative(requests: Sequence[Request], conditions: Conditions, setting: Setting) -> Conditions | None:
    """What guidance moves away from: negative prompts, without a label and with all else the same.

    A request without a negative prompt has the null condition; none = all have, and it is the learned one.
    """
    learned = setting.null_prompt == "learned"
    if learned and all(r.negative is None for r in requests):
        return None
    told = embedded([r.negative or "" for r in requests], setting)
    label = conditions.label
    null = torch.tensor([r.negative is None for r in requests], device=setting.device) if learned else None
    if label is not None:
        label = torch.full_like(label, setting.spec.num_classes)
    kept = {name: value for name, value in conditions.items() if name not in PROMPT}
    nulls = {name: rows for name, rows in conditions.nulls.items() if name not in PROMPT}
    return Conditions.of(kept, nulls).told(told.replace(label=label, null=null))
