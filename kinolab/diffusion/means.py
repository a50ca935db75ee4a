"""The mean over a sample in which some latents count more than others."""

from __future__ import annotations

from torch import Tensor


def mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """The mean (B,) of values (B, C, T, H, W), each by its weight (B, 1, T, H, W); none = all alike."""
    if weight is None:
        return values.flatten(1).mean(1)
    weights = weight.to(values).expand_as(values).flatten(1)
    return (values.flatten(1) * weights).sum(1) / weights.sum(1)
