"""Joint training on buckets: how many clips of each shape share a step, and which shape a step has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from kinolab.config import Config
from kinolab.data.buckets import BucketShape, bucket_name
from kinolab.errors import InputError


class MixPointConfig(Config):
    """The shares of the buckets at one step."""

    at: int = Field(0, ge=0)
    """Optimiser step, counted from 0."""
    weights: dict[str, float]
    """Share of the steps for buckets named by frames, height and width as 17x64x96, or for all buckets of a length as
    17 (shared among them by their clips). They need not sum to 1; what is not named has none."""

    @field_validator("weights", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        # YAML reads a bare 17 as a number.
        return {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _check(self) -> MixPointConfig:
        if not self.weights or min(self.weights.values()) < 0 or sum(self.weights.values()) <= 0:
            raise ValueError("expected weights of at least 0, and one of them above")
        return self


class MixConfig(Config):
    """How buckets share the steps of a training."""

    batch: Literal["clips", "latents"] = "clips"
    """What batch_size (and micro_batch) count: clips of any shape alike, or as many latents T x H x W as so many clips
    of the largest bucket have, so that steps of every bucket cost about as much: smaller clips come in larger
    batches."""
    schedule: tuple[MixPointConfig, ...] = ()
    """Shares at steps, linear between them and constant before and after; none = every clip is seen equally often."""

    @model_validator(mode="after")
    def _check(self) -> MixConfig:
        steps = [point.at for point in self.schedule]
        if steps != sorted(set(steps)):
            raise ValueError(f"expected a schedule of rising steps, got {steps}")
        return self

    @property
    def active(self) -> bool:
        """Whether anything but the default order is asked for."""
        return self.batch != "clips" or bool(self.schedule)


@dataclass(frozen=True)
class BucketMix:
    """The buckets of one source, settled.

    groups: the indices of each bucket's windows; ratios: clips of each that count as one of the largest;
    shares: steps (N,) -> the buckets' shares of each (N, buckets), not normalised.
    """

    groups: Sequence[Sequence[int]]
    ratios: Sequence[float]
    shares: Callable[[np.ndarray], np.ndarray]


def bucket_mix(
    config: MixConfig,
    groups: Sequence[Sequence[int]],
    shapes: Sequence[BucketShape],
    positions: Sequence[int],
) -> BucketMix:
    """Settle a config for a source's groups of windows.

    Args:
        groups: the indices of each bucket's windows.
        shapes: frames, height, width of each.
        positions: latent positions T x H x W of a window of each.

    Raises:
        InputError: where the schedule names a bucket that the source has not.
    """
    ratios = [max(positions) / p for p in positions] if config.batch == "latents" else [1.0] * len(groups)
    # The number of batches that a bucket's clips fill: with these shares every clip is seen equally often.
    natural = np.array([len(group) / ratio for group, ratio in zip(groups, ratios, strict=True)])
    if not config.schedule:
        return BucketMix(groups, ratios, lambda steps: np.tile(natural, (len(steps), 1)))
    points = np.array([_row(point, shapes, natural) for point in config.schedule])
    points = points / points.sum(1, keepdims=True)
    at = [point.at for point in config.schedule]

    def shares(steps: np.ndarray) -> np.ndarray:
        return np.stack([np.interp(steps, at, column) for column in points.T], axis=1)

    return BucketMix(groups, ratios, shares)


def _row(point: MixPointConfig, shapes: Sequence[BucketShape], natural: np.ndarray) -> np.ndarray:
    """The shares (buckets,) that one point of a schedule gives."""
    row = np.zeros(len(shapes))
    for name, weight in point.weights.items():
        named = np.array([name in (bucket_name(shape), str(shape[0])) for shape in shapes])
        if not named.any():
            known = ", ".join(bucket_name(shape) for shape in shapes)
            raise InputError(f"mix.schedule: no bucket {name} in the data; it has {known}")
        row += weight * np.where(named, natural, 0.0) / natural[named].sum()
    return row
