"""Which adapters a person puts on a model, and how strongly; `kinolab.checkpoints.adapters` reads them."""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import Field

from kinolab.config import Config
from kinolab.errors import InputError
from kinolab.runtime.lines import shown


class AdapterUse(Config):
    """An adapter that is put on a denoiser."""

    path: Path
    """Its file, or peft's folder; or the name of one that the model has beside it."""
    weight: float = Field(1.0, allow_inf_nan=False)
    """What its changes are multiplied with; 0 = off, below 0 = away from it."""


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
