"""What the metrics of distributions share: checked feature vectors of real and generated samples, and a bounded store.

Features are (N, D): one vector per sample, a clip or a frame as the extractor says. All arithmetic is in float64.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.metrics.base import Metric, Need
from kinolab.runtime.lines import shown
from kinolab.runtime.reading import parse_json
from kinolab.runtime.weights import read_weights, write_weights

Setting = str | int | float | bool
Protocol = Mapping[str, Setting]

MINIMUM = 16
"""Samples of each kind below which no distance is given, unless a protocol asks for more."""
HARD_MINIMUM = 2
"""Samples without which there is no covariance at all."""
GROUPS = 10
"""Groups that samples are dealt to, for the delete-group jackknife."""
_HEADER = "kinolab"


class DistributionMetric(Metric):
    """Base of the metrics that compare two sets of features: checks what comes in, refuses where it is too little.

    name: what the score is called, e.g. "fvd". minimum: samples of each kind that `compute` asks for.
    protocol: entries that the caller adds to every score, e.g. `ExtractorSpec.protocol()`.

    Raises:
        InputError: for a minimum below `HARD_MINIMUM`.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"sets"})

    def __init__(self, name: str, minimum: int, seed: int, protocol: Protocol | None) -> None:
        if minimum < HARD_MINIMUM:
            raise InputError(f"{name}: minimum must be at least {HARD_MINIMUM} samples, got {minimum}")
        self.name, self.minimum, self.seed = name, minimum, seed
        self.width: int | None = None
        self.counts = {True: 0, False: 0}
        self._given: dict[str, Setting] = dict(protocol or {})

    def _accept(self, features: Tensor, real: bool) -> Tensor:
        """Checked features as float64 on the CPU; nothing is counted where the check fails."""
        x = check_features(features, f"{self.name} ({KINDS[real]})", self.counts[real], self.width)
        self.width = x.shape[1]
        self.counts[real] += len(x)
        return x

    def _require(self, minimum: int | None = None) -> None:
        """Raise InputError unless both kinds have `minimum` samples."""
        least = self.minimum if minimum is None else minimum
        for real in (True, False):
            if self.counts[real] < least:
                raise InputError(
                    f"{self.name} needs at least {least} {KINDS[real]} samples, got {self.counts[real]}: "
                    "give it more samples, or name a protocol that asks for fewer"
                )

    def _require_pairs(self, paired: bool) -> None:
        if paired and self.counts[True] != self.counts[False]:
            raise InputError(
                f"{self.name}: paired samples must be equally many, got {self.counts[True]} real and "
                f"{self.counts[False]} generated"
            )

    def _protocol(self, **settings: Setting) -> dict[str, Setting]:
        counts: dict[str, Setting] = {"samples": self.counts[False], "real_samples": self.counts[True]}
        shared: dict[str, Setting] = {"metric": self.name, "width": self.width or 0, "minimum": self.minimum}
        return shared | counts | settings | self._given


KINDS = {True: "real", False: "generated"}


def check_features(features: Tensor, name: str, start: int, width: int | None) -> Tensor:
    """Features (N, D) as float64 on the CPU; `start` is the number of the first of them among all samples.

    Raises:
        InputError: for another shape, another width than before, or values that are not finite.
    """
    if features.ndim != 2 or not features.shape[1]:
        raise InputError(f"{name}: expected feature vectors (N, D), got {tuple(features.shape)}")
    if width is not None and features.shape[1] != width:
        raise InputError(f"{name}: expected features of width {width} as before, got {features.shape[1]}")
    x = features.detach().cpu().double()
    bad = (~torch.isfinite(x).all(1)).nonzero().flatten()
    if len(bad):
        raise InputError(
            f"{name}: {len(bad)} of {len(x)} feature vectors hold NaN or infinity, the first is of sample "
            f"{start + int(bad[0])} (counted from 0): look at that clip, or run the extractor in float32"
        )
    return x


def group_numbers(start: int, count: int, groups: int, seed: int, per: int = 1) -> Tensor:
    """Which group each of the samples start .. start + count - 1 belongs to: (count,) in 0 .. groups - 1.

    Every run of `groups` samples is dealt out in a seeded random order, one to each group: groups differ by one sample
    at most, and a sample's group depends on its number alone, not on the batches it came in.

    per: so many samples in a row are one, as the frames of a clip: they are dealt together, because samples that depend
    on each other would make the jackknife's noise too small.
    """
    if per > 1:
        clips = torch.arange(start, start + count) // per
        if not count:
            return clips
        first_clip = int(clips[0])
        return group_numbers(first_clip, int(clips[-1]) - first_clip + 1, groups, seed)[clips - first_clip]
    first, last = start // groups, math.ceil((start + count) / groups)
    deals = [np.random.default_rng([seed, block]).permutation(groups) for block in range(first, last)]
    numbers = torch.from_numpy(np.concatenate(deals)) if deals else torch.zeros(0, dtype=torch.int64)
    return numbers[start - first * groups :][:count]


class FeatureBank:
    """Keeps features, at most `maximum` of them: a random choice among all that came (reservoir sampling).

    Every sample draws a seeded random key, and the smallest keys stay: the choice depends on the order of the samples,
    not on their batches. Memory: at most 2 maximum x D float64.
    """

    def __init__(self, maximum: int, seed: int) -> None:
        if maximum < HARD_MINIMUM:
            raise InputError(f"maximum must be at least {HARD_MINIMUM} samples, got {maximum}")
        self.maximum = maximum
        self.count = 0
        self._generator = np.random.default_rng(seed)
        self._features: list[Tensor] = []
        self._keys: list[Tensor] = []
        self._numbers: list[Tensor] = []
        self._held = 0

    def update(self, features: Tensor) -> None:
        """Add features (N, D), checked by `check_features`."""
        self._features.append(features.clone())
        self._keys.append(torch.from_numpy(self._generator.random(len(features))))
        self._numbers.append(torch.arange(self.count, self.count + len(features)))
        self.count += len(features)
        self._held += len(features)
        if self._held > 2 * self.maximum:
            self._shrink()

    def features(self) -> Tensor:
        """What is kept, in the order it came: (min(count, maximum), D)."""
        self._shrink()
        return self._features[0]

    def numbers(self) -> Tensor:
        """The number, among all samples that came, of each one that is kept: (min(count, maximum),)."""
        self._shrink()
        return self._numbers[0]

    def _shrink(self) -> None:
        assert self._features, "no features"
        features, keys, numbers = torch.cat(self._features), torch.cat(self._keys), torch.cat(self._numbers)
        if len(keys) > self.maximum:
            kept = keys.argsort()[: self.maximum].sort().values
            features, keys, numbers = features[kept], keys[kept], numbers[kept]
        self._features, self._keys, self._numbers, self._held = [features], [keys], [numbers], len(features)


def save_tensors(path: Path, kind: str, tensors: Mapping[str, Tensor], header: Mapping[str, object]) -> None:
    """Write a .safetensors file with `kind` and `header` in its metadata; aside first, then under its name."""
    metadata = {"format": "pt", _HEADER: json.dumps({"kind": kind} | dict(header))}
    write_weights(path, {name: value.contiguous() for name, value in tensors.items()}, metadata)


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, object]]:
    """What `save_tensors` wrote.

    Raises:
        InputError: where the file is missing, unreadable, or not of this kind.
    """
    try:
        found = read_weights(path, nan="allow")
    except (OSError, InputError) as error:
        raise InputError(f"{path}: not a readable file of {kind} ({error})") from None
    header = parse_json(found.metadata.get(_HEADER, "{}"), f"{path}: header")
    if not isinstance(header, dict) or header.get("kind") != kind:
        said = shown(header.get("kind") if isinstance(header, dict) else header)
        raise InputError(f"{path}: expected a file of {kind} written by kinolab, its header says {said}")
    return dict(found.tensors), header
