"""Adapters put on a model: which, how strongly, and whether their changes are added to its weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from kinolab.checkpoints.adapters.files import Adapter, adapter_files, read_adapter
from kinolab.checkpoints.adapters.names import native_changes
from kinolab.config import Config
from kinolab.contracts.events import Listener, events_of
from kinolab.denoisers import Denoiser
from kinolab.errors import InputError
from kinolab.layers.lora import change_layers
from kinolab.models import VideoModel
from kinolab.runtime.lines import shown


class AdapterUse(Config):
    """An adapter that is put on a denoiser."""

    path: Path
    """Its file, or peft's folder."""
    weight: float = Field(1.0, allow_inf_nan=False)
    """What its changes are multiplied with; 0 = off, below 0 = away from it."""

    def files(self) -> list[Path]:
        """The files that it is read from."""
        return adapter_files(self.path)


def parse_use(text: str) -> AdapterUse:
    """`FILE:WEIGHT`, or `FILE` for a weight of 1.

    Raises:
        InputError: for a weight that is no number.
    """
    path, sign, number = text.rpartition(":")
    if not sign or Path(text).exists():
        return AdapterUse(path=Path(text))
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not path or not math.isfinite(weight):
        raise InputError(f"--lora {shown(text)}: expected FILE:WEIGHT with a number, such as style.safetensors:0.8")
    return AdapterUse(path=Path(path), weight=weight)


def put_on(
    model: VideoModel,
    uses: Sequence[AdapterUse],
    *,
    merged: bool = True,
    in_place: bool = False,
    events: Listener = None,
) -> VideoModel:
    """The model with adapters on its denoiser and its experts, one after the other; itself where there are none.

    What an adapter changes of a text encoder is left out, and a note says so.

    Args:
        merged: add the changes to the weights; else they stay beside their layers.
        in_place: change the networks themselves; else copies, and the model that is given stays as it is.

    Raises:
        InputError: for an adapter that can't be read, or is for another model.
    """
    if not uses:
        return model
    told, adapters = events_of(events), [read_adapter(use.path) for use in uses]
    made = copy.copy(model)
    if not in_place:
        made.denoiser, made.experts = copy.deepcopy(model.denoiser), copy.deepcopy(model.experts)
    for use, adapter in zip(uses, adapters, strict=True):
        for denoiser in (made.denoiser, *made.experts):
            _put(denoiser, adapter, use.weight, merged)
        if adapter.text:
            told.note(f"{use.path}: its {len(adapter.text)} changes of a text encoder are left out")
    return made


def _put(denoiser: Denoiser, adapter: Adapter, weight: float, merged: bool) -> None:
    changes = {name: change.times(weight) for name, change in native_changes(denoiser, adapter).items()}
    change_layers(denoiser, changes, merged=merged)
