"""The class label: a vector of whole numbers, each a row of a learned table; the last row is the null class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kinolab.conditioning.base import Condition, Draws, Setting
from kinolab.contracts.conditions import Conditions
from kinolab.contracts.examples import Example
from kinolab.contracts.request import Request
from kinolab.denoisers.base import DenoiserSpec
from kinolab.errors import InputError


class Label(Condition[int]):
    """A class by its number. Its null is a class of its own, so no row is marked null for want of a label.

    In training it falls with the prompt, and by itself at the recipe's rate `label_dropout`.
    """

    name = "label"

    @property
    def called(self) -> str:
        """What an error calls it."""
        return "a label"

    def asks(self, request: Request) -> bool:
        """Whether there is a label."""
        return request.label is not None

    def asked(self, request: Request, setting: Setting) -> int | None:
        """The number of the request's label."""
        return None if request.label is None else label_index(request.label, setting.spec, setting.class_names)

    def shown(self, examples: Sequence[Example], setting: Setting, draws: Draws) -> Sequence[int | None]:
        """The examples' labels."""
        return [None if e.label is None else int(e.label) for e in examples]

    def tell(self, told: Sequence[int | None], setting: Setting, before: Conditions, draws: Draws) -> Conditions:
        """Labels (B,) int64, those that are not there as the denoiser was built to be told."""
        known = [setting.spec.unlabelled if label is None else label for label in told]
        return Conditions(label=torch.tensor(known, device=setting.device))


def label_index(label: int | str, spec: DenoiserSpec, names: Sequence[str]) -> int:
    """The number of a class given by number or name.

    Raises:
        InputError: where there is no such class; lists them.
    """
    if isinstance(label, str) and label in names:
        return list(names).index(label)
    if str(label).isdecimal() and int(label) < spec.num_classes:
        return int(label)
    known = ", ".join(f"{i} ({n})" for i, n in enumerate(names)) if names else f"0 to {spec.num_classes - 1}"
    raise InputError(f"label {label!r}: expected one of {known}")


def without_label(label: Tensor, rows: Tensor, spec: DenoiserSpec) -> Tensor:
    """Labels (B,) or (B, 1 + images) with those of the given rows (B,) replaced by the null class."""
    null = torch.full_like(label, spec.num_classes)
    return torch.where(rows.view(-1, *[1] * (label.ndim - 1)), null, label)
