"""The Inception Score: how sure a classifier is of each sample, and how many classes the samples cover.

exp of the mean over samples of KL(p(class | sample) || p(class)) (Salimans et al. 2016, section 4); on videos with
C3D as the classifier (Saito et al. 2017). From 1, all alike, to the number of classes. It never sees real samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.metrics.base import Interval, Metric, MetricValue, Need, Setup, Shown
from kinolab.metrics.features import GROUPS, HARD_MINIMUM, MINIMUM, Protocol, Setting, check_features, group_numbers
from kinolab.metrics.statistics import MIN_SAMPLES, jackknife

SPLITS = 10
_SUM_TOLERANCE = 1e-3


class InceptionScore(Metric):
    """Inception Score of generated samples from their class probabilities, streaming, with an interval.

    Higher is better. The mean over `splits` parts of the samples, as papers report it; samples are dealt to the parts
    in a seeded random order. A split of n samples can't score above n, and few samples score too low: values of
    different sample counts don't compare, and the count is in the protocol.

    Memory: the class sums of every part. minimum: samples below which nothing is given; every split needs two.
    protocol: entries that the caller adds to the score, e.g. `ExtractorSpec.protocol()`.
    """

    better = "higher"
    digits = 3
    needs = frozenset[Need]({"sets"})
    weights = "classifier"

    def __init__(
        self,
        name: str = "is",
        *,
        splits: int = SPLITS,
        minimum: int = MINIMUM,
        seed: int = 0,
        protocol: Protocol | None = None,
    ) -> None:
        if splits < 1 or minimum < HARD_MINIMUM:
            raise InputError(f"{name}: expected at least 1 split and a minimum of 2, got {splits} and {minimum}")
        self.name, self.splits, self.minimum, self.seed = name, splits, minimum, seed
        # a split has several groups where there are too few splits for the jackknife
        self._groups = splits * math.ceil(GROUPS / splits)
        self._counts = torch.zeros(self._groups, dtype=torch.float64)
        self._sums: Tensor | None = None
        self._entropies = torch.zeros(self._groups, dtype=torch.float64)
        self._count = 0
        self._given: dict[str, Setting] = dict(protocol or {})

    @classmethod
    def build(cls, setup: Setup) -> InceptionScore:
        """Of the protocol's classifier."""
        return cls("inception_score", minimum=setup.minimum, seed=setup.seed, protocol=setup.states("classifier"))

    def see(self, shown: Shown) -> None:
        """The classes of what is measured: there is no reference."""
        self.update(shown.features["classifier"])

    def update(self, probabilities: Tensor) -> None:
        """Add class probabilities (N, classes), after the softmax.

        Raises:
            InputError: for another shape, values that are not finite, or rows that are no probabilities.
        """
        width = None if self._sums is None else self._sums.shape[1]
        p = check_features(probabilities, self.name, self._count, width)
        if len(p) and (bool((p < 0).any()) or bool(((p.sum(1) - 1).abs() > _SUM_TOLERANCE).any())):
            raise InputError(
                f"{self.name}: expected class probabilities that sum to 1, got other rows: apply a softmax"
            )
        if self._sums is None:
            self._sums = torch.zeros(self._groups, p.shape[1], dtype=torch.float64)
        numbers = group_numbers(self._count, len(p), self._groups, self.seed)
        self._counts.index_add_(0, numbers, torch.ones(len(p), dtype=torch.float64))
        self._sums.index_add_(0, numbers, p)
        self._entropies.index_add_(0, numbers, torch.special.xlogy(p, p).sum(1))
        self._count += len(p)

    def compute(self) -> MetricValue:
        """The mean over splits of exp(mean KL), with a delete-group jackknife interval, cut at 1.

        Raises:
            InputError: where there are fewer samples than `minimum` or than two per split.
        """
        least = max(self.minimum, 2 * self.splits)
        if self._count < least:
            raise InputError(
                f"{self.name} needs at least {least} samples for {self.splits} splits, got {self._count}: give it more "
                "samples, or name a protocol that asks for fewer"
            )
        value = self._score(None)
        protocol: dict[str, Setting] = {
            "metric": self.name,
            "classes": 0 if self._sums is None else self._sums.shape[1],
            "samples": self._count,
            "minimum": self.minimum,
            "splits": self.splits,
            "seed": self.seed,
        }
        return MetricValue(value, self._count, protocol | self._given, self._interval(value))

    def _interval(self, value: float) -> Interval | None:
        filled = [number for number in range(self._groups) if self._counts[number]]
        if len(filled) < MIN_SAMPLES:
            return None
        found = jackknife([self._score(number) for number in filled], value)
        return found and Interval(max(1.0, found.low), found.high, found.method, found.level)

    def _score(self, left_out: int | None) -> float:
        """The mean over the splits of exp(sum p log p / n - sum m log m), m the mean of p over the split."""
        assert self._sums is not None
        scores = []
        for split in range(self.splits):
            kept = [k for k in range(split, self._groups, self.splits) if k != left_out]
            count = float(self._counts[kept].sum())
            if not count:
                continue
            marginal = self._sums[kept].sum(0) / count
            marginal = marginal / marginal.sum()  # float32 rows sum to 1 only within rounding
            divergence = float(self._entropies[kept].sum()) / count - float(
                torch.special.xlogy(marginal, marginal).sum()
            )
            scores.append(math.exp(max(0.0, divergence)))
        return math.fsum(scores) / len(scores)
