"""Precision, recall, density and coverage: whether generated samples lie among the real ones, and reach all of them.

A set of features stands for a region: the union of balls around its samples, each as wide as the distance to the
sample's k-th nearest neighbour in the set. Precision is the share of generated samples in the real region, recall the
share of real samples in the generated region (Kynkäänniemi et al. 2019). Density is how many real balls hold a
generated sample, over k; coverage is the share of real balls that hold one at least (Naeem et al. 2020), which one
outlier with a wide ball does not lift.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.metrics.base import Interval, MetricValue, Setup
from kinolab.metrics.features import GROUPS, MINIMUM, DistributionMetric, FeatureBank, Protocol, Setting, group_numbers
from kinolab.metrics.statistics import MIN_SAMPLES, jackknife_variance, spread_interval, wilson

MANIFOLD_NEIGHBOURS = 3
COVERAGE_NEIGHBOURS = 5
MAXIMUM = 10_000
"""Samples of each kind that are kept; above it a seeded random choice of them."""
_ROWS = 512
"""Rows of a matrix of distances that are held at once."""
_SLACK = 1e-12
"""Rounding of a squared distance, relative to the squared lengths it is computed from."""


@dataclass(frozen=True)
class _Points:
    """Features (N, D), their squared lengths and the groups of the jackknife."""

    x: Tensor
    squares: Tensor
    groups: Tensor

    def squared_distances(self, rows: slice, other: _Points) -> Tensor:
        """(rows, M), with what is zero within rounding as zero, so that a copy lies in a ball of radius zero."""
        lengths = self.squares[rows, None] + other.squares  # |x|^2 + |y|^2, (rows, M)
        distances = lengths - 2 * self.x[rows] @ other.x.T
        return distances.masked_fill_(distances < _SLACK * lengths, 0.0)

    def chunks(self) -> list[slice]:
        return [slice(start, min(start + _ROWS, len(self.x))) for start in range(0, len(self.x), _ROWS)]


class ManifoldMetrics(DistributionMetric):
    """Precision, recall, density and coverage of generated features among real ones, streaming, with intervals.

    manifold_neighbours: k of precision and recall; coverage_neighbours: k of density and coverage. maximum: samples of
    each kind that are kept. All four depend on the numbers of samples, which are in the protocol.

    Raises:
        InputError: for settings that can't be met.
    """

    better = "higher"
    weights = "video"

    def __init__(
        self,
        *,
        manifold_neighbours: int = MANIFOLD_NEIGHBOURS,
        coverage_neighbours: int = COVERAGE_NEIGHBOURS,
        minimum: int = MINIMUM,
        maximum: int = MAXIMUM,
        groups: int = GROUPS,
        seed: int = 0,
        protocol: Protocol | None = None,
    ) -> None:
        super().__init__("precision and recall", minimum, seed, protocol)
        most, least = max(manifold_neighbours, coverage_neighbours), min(manifold_neighbours, coverage_neighbours)
        if least < 1 or minimum < 2 * most or maximum < minimum or groups < MIN_SAMPLES:
            raise InputError(
                f"expected at least 1 neighbour, a minimum of at least {2 * most} samples (twice the neighbours), "
                f"maximum >= minimum and {MIN_SAMPLES} groups, got {least} neighbours, minimum {minimum}, maximum "
                f"{maximum}, {groups} groups"
            )
        self.manifold_neighbours, self.coverage_neighbours = manifold_neighbours, coverage_neighbours
        self.maximum, self.groups = maximum, groups
        self._banks = {real: FeatureBank(maximum, seed) for real in (True, False)}
        self._scores: dict[str, MetricValue] = {}

    @classmethod
    def build(cls, setup: Setup) -> ManifoldMetrics:
        """Of the protocol's features; with fewer samples than twice the neighbours, neighbours say nothing."""
        least = max(setup.minimum, 2 * COVERAGE_NEIGHBOURS)
        return cls(minimum=least, seed=setup.seed, protocol=setup.states("video"))

    def score(self, name: str) -> MetricValue:
        """One of the four, which are computed together."""
        self._scores = self._scores or self.compute()
        return self._scores[name]

    def update(self, features: Tensor, real: bool) -> None:
        """Add features (N, D) of real or generated samples. Raises InputError for values that are not finite."""
        self._banks[real].update(self._accept(features, real))
        self._scores = {}

    def compute(self) -> dict[str, MetricValue]:
        """The scores by name: precision, recall, density, coverage; higher is better, only density may pass 1.

        The intervals leave out groups of the real and of the generated samples in turn (delete-group jackknife). For
        shares the variance so found gives the number of independent samples that Wilson's interval is taken with.

        Raises:
            InputError: where there are fewer samples than `minimum`.
        """
        self._require()
        real, generated = self._points()
        k, wide = self.manifold_neighbours, self.coverage_neighbours
        real_radii, generated_radii = self._radii(real, k), self._radii(generated, k)
        wide_radii = real_radii if wide == k else self._radii(real, wide)
        inside, _ = self._balls(real, real_radii, generated)
        reached, _ = self._balls(generated, generated_radii, real)
        _, balls = self._balls(real, wide_radii, generated)
        covered, kept = self._covered(real, wide_radii, generated)
        return {
            "precision": self._share("precision", inside, real, generated, k),
            "recall": self._share("recall", reached, generated, real, k),
            "density": self._density(balls, real, generated),
            "coverage": self._coverage(covered, kept, real, generated),
        }

    def _points(self) -> tuple[_Points, _Points]:
        x, y = self._banks[True].features(), self._banks[False].features()
        centre = x.mean(0)  # shorter vectors, smaller rounding of their distances
        x, y = x - centre, y - centre
        groups = [group_numbers(0, len(z), self.groups, self.seed) for z in (x, y)]
        return _Points(x, x.square().sum(1), groups[0]), _Points(y, y.square().sum(1), groups[1])

    def _radii(self, points: _Points, k: int) -> Tensor:
        """Squared distance of every point to its k-th neighbour: (1 + groups, N); of all, then without each group.

        A point of the group left out has no ball: radius -1.
        """
        radii = torch.full((1 + self.groups, len(points.x)), -1.0, dtype=torch.float64)
        for rows in points.chunks():
            d = points.squared_distances(rows, points)
            # A point is no neighbour of itself; these rows begin at column `rows.start`.
            d.diagonal(rows.start).fill_(torch.inf)
            radii[0, rows] = d.kthvalue(k, dim=1).values
            for group in range(self.groups):
                others = points.groups != group
                there = others[rows]
                if int(others.sum()) > k and bool(there.any()):
                    found = d[there][:, others].kthvalue(k, dim=1).values
                    radii[1 + group, rows] = radii[1 + group, rows].masked_scatter(there, found)
        return radii

    def _balls(self, centres: _Points, radii: Tensor, points: _Points) -> tuple[Tensor, Tensor]:
        """For each point whether a ball holds it, and how many do: (1 + groups, M) each."""
        counts = torch.zeros(len(radii), len(points.x), dtype=torch.float64)
        for rows in points.chunks():
            d = points.squared_distances(rows, centres)
            for number, radius in enumerate(radii):
                counts[number, rows] = (d <= radius).sum(1).double()
        return counts > 0, counts

    def _covered(self, centres: _Points, radii: Tensor, points: _Points) -> tuple[Tensor, Tensor]:
        """For each ball whether a point lies in it, (1 + groups, N); the same without each group of points."""
        nearest = torch.full((self.groups, len(centres.x)), torch.inf, dtype=torch.float64)
        for rows in centres.chunks():
            d = centres.squared_distances(rows, points)
            for group in points.groups.unique().tolist():
                nearest[group, rows] = d[:, points.groups == group].amin(1)
        covered = nearest.amin(0) <= radii  # (N,) against (1 + groups, N)
        left = [torch.cat([nearest[:group], nearest[group + 1 :]]).amin(0) <= radii[0] for group in range(self.groups)]
        return covered, torch.stack(left)

    def _share(self, name: str, hits: Tensor, centres: _Points, points: _Points, k: int) -> MetricValue:
        """The share of points that lie in a ball."""
        value = float(hits[0].double().mean())
        parts = self._parts(hits.double(), centres, points)
        return self._value(name, value, self._share_interval(value, len(points.x), parts), k)

    def _density(self, balls: Tensor, real: _Points, generated: _Points) -> MetricValue:
        k = self.coverage_neighbours
        value = float(balls[0].mean()) / k
        found = spread_interval(value, self._parts(balls / k, real, generated))
        interval = Interval(max(0.0, found.low), found.high, found.method, found.level)
        return self._value("density", value, interval, k)

    def _coverage(self, covered: Tensor, kept: Tensor, real: _Points, generated: _Points) -> MetricValue:
        value = float(covered[0].double().mean())
        parts = [
            [float(covered[1 + k][real.groups != k].double().mean()) for k in real.groups.unique().tolist()],
            [float(kept[k].double().mean()) for k in generated.groups.unique().tolist()],
        ]
        interval = self._share_interval(value, len(real.x), parts)
        return self._value("coverage", value, interval, self.coverage_neighbours)

    def _parts(self, scores: Tensor, centres: _Points, points: _Points) -> list[list[float]]:
        """Mean scores without each group of centres, and without each group of points."""
        return [
            [float(scores[1 + k].mean()) for k in centres.groups.unique().tolist()],
            [float(scores[0][points.groups != k].mean()) for k in points.groups.unique().tolist()],
        ]

    def _share_interval(self, value: float, count: int, parts: list[list[float]]) -> Interval:
        """Wilson's interval with the number of samples that a share of this variance would have, at most `count`."""
        variance = sum(jackknife_variance(values) for values in parts)
        effective = min(float(count), value * (1 - value) / variance) if variance > 0 and 0 < value < 1 else count
        return wilson(value * effective, effective)

    def _value(self, name: str, value: float, interval: Interval, k: int) -> MetricValue:
        settings: dict[str, Setting] = {"metric": name, "neighbours": k}
        protocol = self._protocol(maximum=self.maximum, groups=self.groups, seed=self.seed) | settings
        return MetricValue(value, self.counts[False], protocol, interval)
