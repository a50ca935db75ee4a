"""What the records of all evaluations share: JSON without what is not finite, a hash of settings, plain tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinolab.runtime.hashes import json_sha256

if TYPE_CHECKING:
    from rich.table import Table

MADE_BY = frozenset(
    {"kinolab", "torch", "model", "model_sha256", "adapters", "trained", "device", "threads", "batch", "precision",
     "sampler", "guidance", "stages", "cache", "reach", "methods", "method", "steering", "load", "run", "protocol",
     "distilled"}
)  # fmt: skip
"""What belongs to the subject and the machine: two scores that differ in it are there to be compared."""


def settings_hash(protocol: Mapping[str, Any]) -> str:
    """sha256 over the entries of a record's protocol that must be equal for two scores to be comparable."""
    kept = {k: v for k, v in protocol.items() if k not in MADE_BY}
    return json_sha256(finite(kept))


def subject_of(record: Mapping[str, Any], kind: str = "model") -> dict[str, Any]:
    """The model that a record of an evaluation is of, as scores name it: with what was put on it.

    record: has `model`, perhaps its `model_sha256`, and `adapters` where there are some.
    """
    worn = [f" + {Path(adapter['path']).name}:{adapter['weight']:g}" for adapter in record.get("adapters", ())]
    name = None if record["model"] is None else "".join([record["model"], *worn])
    return {
        "name": name,
        "kind": kind,
        **({"sha256": record["model_sha256"]} if "model_sha256" in record else {}),
        **({"adapters": record["adapters"]} if worn else {}),
    }


def finite(value: Any) -> Any:
    """The same number or record with None for what is not finite, as JSON has it."""
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain_table(title: str) -> Table:
    """An empty table in the style of all reports."""
    from rich import box
    from rich.table import Table

    return Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False
    )
