"""The null condition of models whose public layouts have none: their pipelines encode the empty prompt instead.

One that was learned or set here is written beside the public names, where diffusers leaves it alone.
"""

from __future__ import annotations

from torch import Tensor

NULL = ("null_prompt.text", "null_prompt.pooled")
"""Tensors that the public layouts don't know."""


def without_empty_null(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without a null condition that was never set."""
    return {k: v for k, v in tensors.items() if k not in NULL or bool(v.any())}
