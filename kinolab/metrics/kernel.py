"""The kernel distance between two sets of features: KVD on features of clips, KID on features of frames.

The squared maximum mean discrepancy with the polynomial kernel k(x, y) = (x . y / D + 1)^3 (Binkowski et al. 2018).
Its estimate is unbiased: it does not grow as samples become fewer, and is around 0, also below it, for equal
distributions.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kinolab.errors import InputError
from kinolab.metrics.base import Interval, MetricValue, Setup
from kinolab.metrics.features import (
    GROUPS,
    HARD_MINIMUM,
    MINIMUM,
    DistributionMetric,
    FeatureBank,
    Protocol,
    Setting,
    group_numbers,
)
from kinolab.metrics.statistics import MIN_SAMPLES, spread_interval

SUBSETS = 100
SUBSET_SIZE = 1000
MAXIMUM = 10_000
"""Samples of each kind that are kept; above it a seeded random choice of them."""
_ROWS = 1024
"""Rows of a kernel matrix that are held at once."""


def polynomial_kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x . y / D + 1)^3 of every pair: (N, D), (M, D) -> (N, M)."""
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy of features (N, D) and (M, D) (Gretton et al. 2012, eq. 3).

    sum_{i != j} k(x_i, x_j) / N (N - 1) + sum_{i != j} k(y_i, y_j) / M (M - 1) - 2 sum_{ij} k(x_i, y_j) / N M.
    Raises InputError below two samples of a kind, or for features of two widths.
    """
    if min(len(x), len(y)) < HARD_MINIMUM or x.shape[1:] != y.shape[1:]:
        raise InputError(
            "a kernel distance needs at least two feature vectors of each kind and of one width, got "
            f"{tuple(x.shape)} and {tuple(y.shape)}"
        )
    x, y = x.double(), y.double()
    one, other = torch.zeros(len(x), dtype=torch.int64), torch.zeros(len(y), dtype=torch.int64)
    return _Sums.of(x, y, one, other, 1).distance()


class _Sums:
    """Sums of the kernel over pairs of groups: xx, yy without each sample's pair with itself, and xy; (G, G) each."""

    def __init__(self, xx: Tensor, yy: Tensor, xy: Tensor, x_counts: Tensor, y_counts: Tensor) -> None:
        self.xx, self.yy, self.xy, self.x_counts, self.y_counts = xx, yy, xy, x_counts, y_counts

    @staticmethod
    def of(x: Tensor, y: Tensor, x_groups: Tensor, y_groups: Tensor, groups: int) -> _Sums:
        a, b = (F.one_hot(numbers, groups).double() for numbers in (x_groups, y_groups))
        sums = _group_sums(x, x, a, a, True), _group_sums(y, y, b, b, True), _group_sums(x, y, a, b, False)
        return _Sums(*sums, a.sum(0), b.sum(0))

    def distance(self, x_left: int | None = None, y_left: int | None = None) -> float:
        """The estimate from all groups, or without one group of x, of y."""
        x_kept, y_kept = torch.ones_like(self.x_counts), torch.ones_like(self.y_counts)
        if x_left is not None:
            x_kept[x_left] = 0
        if y_left is not None:
            y_kept[y_left] = 0
        n, m = float(x_kept @ self.x_counts), float(y_kept @ self.y_counts)
        within = x_kept @ self.xx @ x_kept / (n * (n - 1)) + y_kept @ self.yy @ y_kept / (m * (m - 1))
        return float(within - 2 * (x_kept @ self.xy @ y_kept) / (n * m))


def _group_sums(x: Tensor, y: Tensor, x_one_hot: Tensor, y_one_hot: Tensor, without_self: bool) -> Tensor:
    total = torch.zeros(x_one_hot.shape[1], y_one_hot.shape[1], dtype=torch.float64)
    for start in range(0, len(x), _ROWS):
        k = polynomial_kernel(x[start : start + _ROWS], y)
        if without_self:
            k.diagonal(start).zero_()
        # (G, rows) @ (rows, M) @ (M, G)
        total += x_one_hot[start : start + _ROWS].T @ (k @ y_one_hot)
    return total


class KernelDistance(DistributionMetric):
    """Kernel distance between real and generated features, streaming, with an interval. Lower is better.

    subsets, subset_size: of the block estimate that papers report. minimum: samples of each kind below which nothing
    is given. maximum: samples of each kind that are kept. groups: for the jackknife. paired: whether real and generated
    sample i belong together; then both are left out together. per: so many samples in a row are of one clip, as its
    frames: they are left out together, as they depend on each other.

    Raises:
        InputError: for settings that can't be met.
    """

    better = "lower"

    def __init__(
        self,
        name: str = "kvd",
        *,
        subsets: int = SUBSETS,
        subset_size: int = SUBSET_SIZE,
        minimum: int = MINIMUM,
        maximum: int = MAXIMUM,
        groups: int = GROUPS,
        seed: int = 0,
        paired: bool = False,
        per: int = 1,
        protocol: Protocol | None = None,
    ) -> None:
        super().__init__(name, minimum, seed, protocol)
        if subsets < 1 or not HARD_MINIMUM <= subset_size <= maximum or groups < MIN_SAMPLES:
            raise InputError(
                f"{name}: expected at least one subset, 2 <= subset size <= maximum and {MIN_SAMPLES} groups, got "
                f"{subsets} subsets of {subset_size}, maximum {maximum}, {groups} groups"
            )
        self.subsets, self.subset_size, self.groups, self.paired, self.per = subsets, subset_size, groups, paired, per
        self.maximum = maximum
        self._banks = {real: FeatureBank(maximum, seed) for real in (True, False)}
        self._sums: _Sums | None = None

    def update(self, features: Tensor, real: bool) -> None:
        """Add features (N, D) of real or generated samples. Raises InputError for values that are not finite."""
        self._banks[real].update(self._accept(features, real))
        self._sums = None

    def compute(self) -> MetricValue:
        """The block estimate: the mean over random subsets, each drawn without replacement, of the unbiased estimate.

        Its interval adds the variance of the drawing to that of the samples (delete-group jackknife of `full`, which
        is what the mean over all possible subsets would be).

        Raises:
            InputError: where there are fewer samples than `minimum` or than one subset.
        """
        self._check(max(self.minimum, self.subset_size))
        x, y = self._banks[True].features(), self._banks[False].features()
        rng = np.random.default_rng(self.seed)
        values = []
        for _ in range(self.subsets):
            chosen = [torch.from_numpy(rng.choice(len(z), self.subset_size, replace=False)) for z in (x, y)]
            values.append(kernel_distance(x[chosen[0]], y[chosen[1]]))
        value = math.fsum(values) / len(values)
        drawing = float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 0.0
        settings = self._settings() | {"subsets": self.subsets, "subset_size": self.subset_size}
        return MetricValue(value, self.counts[False], settings, self._interval(value, drawing))

    def full(self) -> MetricValue:
        """The unbiased estimate from all samples that are kept, with its delete-group jackknife interval.

        Raises:
            InputError: where there are fewer samples than `minimum`.
        """
        self._check(self.minimum)
        value = self._group_sums().distance()
        settings = self._settings() | {"subsets": "all samples"}
        return MetricValue(value, self.counts[False], settings, self._interval(value, 0.0))

    def _interval(self, value: float, drawing: float) -> Interval | None:
        sums = self._group_sums()
        filled = [[k for k in range(self.groups) if counts[k]] for counts in (sums.x_counts, sums.y_counts)]
        if min(len(numbers) for numbers in filled) < MIN_SAMPLES:
            return None
        if self.paired:
            parts = [[sums.distance(k, k) for k in filled[0]]]
        else:
            parts = [[sums.distance(x_left=k) for k in filled[0]], [sums.distance(y_left=k) for k in filled[1]]]
        return spread_interval(value, parts, drawing)

    def _group_sums(self) -> _Sums:
        if self._sums is None:
            x, y = self._banks[True].features(), self._banks[False].features()
            kept = [self._banks[real].numbers() for real in (True, False)]
            numbers = [group_numbers(0, int(n[-1]) + 1, self.groups, self.seed, self.per)[n] for n in kept]
            self._sums = _Sums.of(x, y, numbers[0], numbers[1], self.groups)
        return self._sums

    def _check(self, minimum: int) -> None:
        self._require(minimum)
        self._require_pairs(self.paired)

    def _settings(self) -> dict[str, Setting]:
        return self._protocol(
            kernel="(x.y/D + 1)^3",
            estimate="unbiased",
            maximum=self.maximum,
            groups=self.groups,
            seed=self.seed,
            paired=self.paired,
            per=self.per,
        )


class Kvd(KernelDistance):
    """The kernel distance of clips, from all samples."""

    weights = "video"

    @classmethod
    def build(cls, setup: Setup) -> Kvd:
        """Of the protocol's features."""
        return cls(minimum=setup.minimum, seed=setup.seed, per=setup.unit("video"), protocol=setup.states("video"))

    def score(self, name: str) -> MetricValue:
        """The estimate from all samples."""
        return self.full()


class Kid(KernelDistance):
    """The kernel distance of frames, from all samples."""

    weights = "image"

    @classmethod
    def build(cls, setup: Setup) -> Kid:
        """Of the protocol's features."""
        unit, states = setup.unit("image"), setup.states("image")
        return cls("kid", minimum=setup.minimum, seed=setup.seed, per=unit, protocol=states)

    def score(self, name: str) -> MetricValue:
        """The estimate from all samples."""
        return self.full()
