"""The Frechet distance between two sets of features: FVD on features of clips, FID on features of frames.

d^2 = |mu_1 - mu_2|^2 + tr C_1 + tr C_2 - 2 tr (C_1^{1/2} C_2 C_1^{1/2})^{1/2} (Dowson and Landau 1982; Heusel et al.
2017 for images, Unterthiner et al. 2018 for videos).

The last trace is the sum of the square roots of the eigenvalues of C_1^{1/2} C_2 C_1^{1/2}. With C_i = F_i^T F_i these
roots are the singular values of F_1 F_2^T: no matrix square root is taken, nothing becomes complex, and the roots of
small eigenvalues keep their digits. F is made by a symmetric eigendecomposition, or is the centred samples themselves
where they are fewer than the features' entries; then the matrix is only as large as the number of samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.metrics.base import Interval, MetricValue, Setup
from kinolab.metrics.features import GROUPS, HARD_MINIMUM, MINIMUM, DistributionMetric, Protocol, Setting
from kinolab.metrics.moments import FeatureMoments, GroupedMoments
from kinolab.metrics.statistics import MIN_SAMPLES, spread_interval

SHARES = (1.0, 0.8, 0.6, 0.5)
"""Parts of the samples whose distances are extrapolated; below a half the distance is not linear in 1 / N."""
_ROUNDING = 1e-9
"""How far below zero, relative to its terms, rounding may bring a distance before it is a fault of ours."""

Extrapolate = Literal["generated", "both"]


def frechet_distance(a: FeatureMoments, b: FeatureMoments) -> float:
    """The squared Frechet distance of two Gaussians with these moments; 0 for equal ones, never below 0.

    A value below zero by rounding is given as 0. Raises InputError below two samples, or for features of two widths.
    """
    if a.width != b.width:
        raise InputError(f"features of width {a.width} and {b.width} can't be compared: use one extractor for both")
    return _distance(_Gaussian.of(a), _Gaussian.of(b))


@dataclass(frozen=True)
class _Gaussian:
    mean: Tensor
    factor: Tensor
    trace: float

    @staticmethod
    def of(moments: FeatureMoments) -> _Gaussian:
        factor = moments.factor()
        return _Gaussian(moments.mean, factor, float(factor.square().sum()))


def _distance(a: _Gaussian, b: _Gaussian) -> float:
    return _combine(a, b.mean, b.trace, float(torch.linalg.svdvals(a.factor @ b.factor.T).sum()))


def _distance_to_moments(a: _Gaussian, b: FeatureMoments) -> float:
    """As `_distance`, without the eigenvectors of b: about three times faster, to eight digits instead of thirteen."""
    if b.low_rank:
        return _distance(a, _Gaussian.of(b))
    covariance = b.covariance
    # (rank, rank), with the eigenvalues of C_a C_b that are not zero.
    roots = torch.linalg.eigvalsh(a.factor @ covariance @ a.factor.T).clamp(min=0).sqrt()
    return _combine(a, b.mean, float(covariance.trace()), float(roots.sum()), 1e-6)


def _combine(a: _Gaussian, mean: Tensor, trace: float, overlap: float, rounding: float = _ROUNDING) -> float:
    shift = float((a.mean - mean).square().sum())
    value = shift + a.trace + trace - 2 * overlap
    assert value >= -rounding * (shift + a.trace + trace), f"Frechet distance {value}"
    return max(0.0, value)


class FrechetDistance(DistributionMetric):
    """Frechet distance between real and generated features, streaming, with an interval.

    Lower is better. The value grows as the samples become fewer (Chong and Forsyth 2020): values of different sample
    counts don't compare, and the counts are in the protocol. `extrapolated` takes most of this away.

    minimum: samples of each kind below which nothing is given. groups: for the intervals and the extrapolation.
    extrapolate: which samples grow to infinity, the generated alone as in the paper (the real ones then count as all
    there are), or both. per: so many samples in a row are of one clip, as its frames: they are left out together, as
    they depend on each other. paired: whether real and generated sample i belong together, as a clip and its
    reconstruction; then both are left out together. reference: statistics of the real samples from an earlier run
    (`real_moments`).

    Raises:
        InputError: for a minimum below 2, or a reference that was made with another protocol.
    """

    better = "lower"
    digits = 2

    def __init__(
        self,
        name: str = "fvd",
        *,
        minimum: int = MINIMUM,
        groups: int = GROUPS,
        seed: int = 0,
        extrapolate: Extrapolate = "generated",
        paired: bool = False,
        per: int = 1,
        protocol: Protocol | None = None,
        reference: GroupedMoments | None = None,
    ) -> None:
        super().__init__(name, minimum, seed, protocol)
        if groups < MIN_SAMPLES:
            raise InputError(f"{name}: expected at least {MIN_SAMPLES} groups of samples, got {groups}")
        self.groups, self.extrapolate, self.paired, self.per = groups, extrapolate, paired, per
        self._sides: dict[bool, GroupedMoments] = {}
        self._wholes: dict[bool, _Gaussian] = {}  # kept until the next update, as the jackknife's values are
        self._left_out: list[list[float]] | None = None
        self._fixed = reference is not None
        if reference is not None:
            self._set_reference(reference)

    def _set_reference(self, reference: GroupedMoments) -> None:
        made = dict(reference.protocol) | {"groups": len(reference.parts), "seed": reference.seed, "per": reference.per}
        asked = self._given | {"groups": self.groups, "seed": self.seed, "per": self.per}
        for key in sorted(made.keys() & asked.keys()):
            if made[key] != asked[key]:
                raise InputError(
                    f"{self.name}: the reference statistics were made with {key} {made[key]}, this protocol has "
                    f"{asked[key]}: make them again"
                )
        self._sides[True] = reference
        self.counts[True], self.width = reference.count, reference.width

    def update(self, features: Tensor, real: bool) -> None:
        """Add features (N, D) of real or generated samples.

        Raises:
            InputError: for another shape, values that are not finite, or real samples where a reference was given.
        """
        if real and self._fixed:
            raise InputError(f"{self.name}: real samples are already given by the reference statistics")
        x = self._accept(features, real)
        if real not in self._sides:
            self._sides[real] = GroupedMoments(x.shape[1], self.groups, self.seed, self._given, self.per)
        self._sides[real].update(x)
        self._wholes.pop(real, None)
        self._left_out = None

    @property
    def real_moments(self) -> GroupedMoments:
        """The statistics of the real samples, to save and give as `reference` later."""
        self._require_kind(True)
        return self._sides[True]

    def _require_kind(self, real: bool) -> None:
        if real not in self._sides:
            raise InputError(f"{self.name} has seen no {'real' if real else 'generated'} samples")

    def compute(self) -> MetricValue:
        """The distance of all samples, with a delete-group jackknife interval cut at 0.

        The interval is for the distance that other samples of the same numbers would give on average: it shows noise,
        not the excess of few samples. Raises InputError where there are fewer than `minimum`.
        """
        self._check()
        value = _distance(self._whole(True), self._whole(False))
        return MetricValue(value, self.counts[False], self._settings(), self._interval(value, cut=True))

    def extrapolated(self) -> MetricValue:
        """The distance at infinitely many samples: intercept of a line through it over 1 / N (Chong, Forsyth 2020).

        The points are the distances of parts of the samples (`SHARES`). Each is the mean over several parts that hold
        every group equally often, so that the noise of the line's ends cancels; the interval is therefore as wide as
        that of `compute`. May come out below 0 where the sets are equal within noise. The line is straight only where
        the smallest part has at least as many samples as features have entries: with fewer it takes away a part of the
        excess, and no interval is given.
        """
        self._check()
        if min(part.count for part in self._sides[False].parts) < 1 or (
            self.extrapolate == "both" and min(part.count for part in self._sides[True].parts) < 1
        ):
            raise InputError(f"{self.name}: the extrapolation needs at least {self.groups} samples, one per group")
        sizes = sorted({max(1, round(share * self.groups)) for share in SHARES}, reverse=True)
        points = [(self.groups / size, self._mean_distance(size)) for size in sizes]
        inverse, distances = np.array(points).T
        value = float(np.polynomial.polynomial.polyfit(inverse, distances, 1)[0])
        settings = self._settings() | {
            "metric": f"{self.name}_infinite",
            "extrapolation": "line over 1/N",
            "extrapolated_samples": self.extrapolate,
            "extrapolation_sizes": ", ".join(str(round(self.counts[False] * size / self.groups)) for size in sizes),
        }
        smallest = self.counts[False] if self.extrapolate == "generated" else min(self.counts.values())
        straight = smallest * sizes[-1] >= self.groups * (self.width or 0)
        return MetricValue(value, self.counts[False], settings, self._interval(value, cut=False) if straight else None)

    def _whole(self, real: bool) -> _Gaussian:
        if real not in self._wholes:
            self._wholes[real] = _Gaussian.of(self._sides[real].total())
        return self._wholes[real]

    def _mean_distance(self, size: int) -> float:
        """Mean distance over parts of `size` groups; the parts together hold every group equally often."""
        step = math.gcd(size, self.groups)
        windows = [[(start + i) % self.groups for i in range(size)] for start in range(0, self.groups, step)]
        distances = []
        for window in windows:
            both = self.extrapolate == "both"
            real = _Gaussian.of(self._sides[True].subset(window)) if both else self._whole(True)
            distances.append(_distance_to_moments(real, self._sides[False].subset(window)))
        return math.fsum(distances) / len(distances)

    def _interval(self, value: float, cut: bool) -> Interval | None:
        """Delete-group jackknife; of both sets together where they are paired, else their variances add."""
        if self._left_out is None:
            self._left_out = self._paired_values() if self.paired else self._separate_values()
        if any(len(values) < MIN_SAMPLES for values in self._left_out):
            return None
        found = spread_interval(value, self._left_out)
        return Interval(max(0.0, found.low) if cut else found.low, found.high, found.method, found.level)

    def _separate_values(self) -> list[list[float]]:
        parts = []
        for real in (True, False):
            fixed = self._whole(not real)
            parts.append([_distance_to_moments(fixed, rest) for rest in self._without_each(real)])
        return parts

    def _paired_values(self) -> list[list[float]]:
        both = zip(self._without_each(True), self._without_each(False), strict=True)
        return [[_distance_to_moments(_Gaussian.of(real), generated) for real, generated in both]]

    def _without_each(self, real: bool) -> Iterator[FeatureMoments]:
        """The moments without one group after the other; groups without samples are no groups."""
        side = self._sides[real]
        filled = [number for number, part in enumerate(side.parts) if part.count]
        if side.count - max(side.parts[number].count for number in filled) >= HARD_MINIMUM:
            for left in filled:
                yield side.subset([number for number in filled if number != left])

    def _check(self) -> None:
        self._require()
        self._require_pairs(self.paired)

    def _settings(self) -> dict[str, Setting]:
        return self._protocol(
            groups=self.groups, seed=self.seed, paired=self.paired, per=self.per, covariance="divided by N - 1"
        )  # fmt: skip


class Fvd(FrechetDistance):
    """The Frechet distance of clips, and the same at infinitely many samples."""

    weights = "video"
    derived = MappingProxyType({"fvd_infinite": "it is fvd, extrapolated, and at few clips has no interval"})

    @classmethod
    def build(cls, setup: Setup) -> Fvd:
        """Of the protocol's features."""
        return cls(minimum=setup.minimum, seed=setup.seed, per=setup.unit("video"), protocol=setup.states("video"))

    def score(self, name: str) -> MetricValue:
        """The distance of all samples, or extrapolated."""
        return self.extrapolated() if name in self.derived else self.compute()


class Fid(FrechetDistance):
    """The Frechet distance of frames."""

    weights = "image"

    @classmethod
    def build(cls, setup: Setup) -> Fid:
        """Of the protocol's features."""
        unit, states = setup.unit("image"), setup.states("image")
        return cls("fid", minimum=setup.minimum, seed=setup.seed, per=unit, protocol=states)


class Rfvd(FrechetDistance):
    """The Frechet distance of clips and their reconstructions, which belong together."""

    weights = "video"

    @classmethod
    def build(cls, setup: Setup) -> Rfvd:
        """Of the protocol's features."""
        return cls("rfvd", minimum=setup.minimum, seed=setup.seed, paired=True, protocol=setup.states("video"))
