"""Mean and covariance of features, streamed: for one set of samples, and for groups of it that can be left out.

Batches are joined by the update of Chan, Golub and LeVeque (1979), which never subtracts large sums of squares. Up to
as many samples as features have entries the samples themselves are kept: their covariance has a lower rank, and every
computation on it is exact and fast in that form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.metrics.features import (
    GROUPS,
    HARD_MINIMUM,
    Protocol,
    Setting,
    check_features,
    group_numbers,
    load_tensors,
    save_tensors,
)

_KIND = "feature moments"
_BLOCK = 256
"""Samples that are gathered before they are added to a covariance, one product for all of them."""


class FeatureMoments:
    """Count, mean and covariance of feature vectors (N, D), in float64.

    Memory: N x D numbers up to D samples, then D x D. protocol: how the features were made; saved with them.
    """

    def __init__(self, width: int, protocol: Protocol | None = None) -> None:
        self.width = width
        self.protocol: dict[str, Setting] = dict(protocol or {})
        self._rows: list[Tensor] = []  # not yet in the mean and the scatter
        self._waiting = 0
        self._folded = 0
        self._mean = torch.zeros(width, dtype=torch.float64)
        self._scatter: Tensor | None = None

    @property
    def count(self) -> int:
        """The number of samples."""
        return self._folded + self._waiting

    @property
    def low_rank(self) -> bool:
        """Whether the samples themselves are held: no more of them than features have entries."""
        return not self._folded

    def update(self, features: Tensor) -> None:
        """Add features (N, width). Raises InputError for another shape or values that are not finite."""
        self._add(check_features(features, "feature moments", self.count, self.width).clone())

    def _add(self, rows: Tensor) -> None:
        self._rows.append(rows)
        self._waiting += len(rows)
        if self._waiting > (_BLOCK if self._folded else self.width):
            self._fold()

    def _fold(self) -> None:
        if not self._waiting:
            return
        rows = torch.cat(self._rows)
        mean = rows.mean(0)
        rows = rows - mean
        self._join(len(rows), mean, rows.T @ rows)
        self._rows, self._waiting = [], 0

    def _join(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        """Chan et al.: S = S_a + S_b + (m_b - m_a)(m_b - m_a)^T n_a n_b / n."""
        if self._scatter is None:
            self._folded, self._mean, self._scatter = count, mean.clone(), scatter.clone()
            return
        total, delta = self._folded + count, mean - self._mean
        self._scatter += scatter
        self._scatter.addr_(delta, delta, alpha=self._folded * count / total)
        self._mean = self._mean + delta * (count / total)
        self._folded = total

    @property
    def mean(self) -> Tensor:
        """(width,)."""
        if self.low_rank:
            return torch.cat(self._rows).mean(0) if self._waiting else self._mean
        self._fold()
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """(width, width), divided by count - 1. Raises InputError below two samples."""
        self._require()
        if self.low_rank:
            factor = self.factor()
            return factor.T @ factor
        self._fold()
        assert self._scatter is not None
        return self._scatter / (self._folded - 1)

    def factor(self) -> Tensor:
        """F (rank, width) with F^T F = covariance.

        The centred samples over sqrt(count - 1) where they are held; else sqrt(eigenvalue) times eigenvector, without
        the eigenvalues that are zero within rounding. Raises InputError below two samples.
        """
        self._require()
        if self.low_rank:
            rows = torch.cat(self._rows)
            return (rows - rows.mean(0)) / (len(rows) - 1) ** 0.5
        values, vectors = torch.linalg.eigh(self.covariance)
        kept = values > values[-1].clamp(min=0) * torch.finfo(torch.float64).eps * self.width
        return (vectors[:, kept] * values[kept].sqrt()).T  # eigenvectors are columns: (width, rank) -> (rank, width)

    def _require(self) -> None:
        if self.count < HARD_MINIMUM:
            raise InputError(f"a covariance needs at least {HARD_MINIMUM} samples, got {self.count}")

    def _without_rows(self) -> FeatureMoments:
        """A copy in the form of mean and scatter."""
        copy = FeatureMoments(self.width, self.protocol)
        copy._rows, copy._waiting = list(self._rows), self._waiting
        if self._scatter is not None:
            copy._join(self._folded, self._mean, self._scatter)
        copy._fold()
        return copy

    @staticmethod
    def merged(parts: Sequence[FeatureMoments]) -> FeatureMoments:
        """The moments of all samples of the parts together; the parts stay as they are."""
        assert parts and len({part.width for part in parts}) == 1, "moments of different features"
        whole = FeatureMoments(parts[0].width, parts[0].protocol)
        for part in parts:
            for rows in part._rows:
                whole._add(rows)
        for part in parts:
            if part._scatter is not None:
                whole._fold()
                whole._join(part._folded, part._mean, part._scatter)
        return whole

    def save(self, path: Path) -> None:
        """Write a .safetensors file with the protocol in its header; an interrupted write leaves none."""
        save_tensors(path, _KIND, self._tensors(""), {"protocol": self.protocol, "counts": [self.count]})

    @staticmethod
    def load(path: Path) -> FeatureMoments:
        """Read what `save` of this class wrote, or of `GroupedMoments`, whose groups are merged.

        Raises:
            InputError: where the file is missing or is not one of feature moments.
        """
        return FeatureMoments.merged(_load(path)[0])

    def _tensors(self, prefix: str) -> dict[str, Tensor]:
        if self.low_rank:
            rows = torch.cat(self._rows) if self._rows else torch.zeros(0, self.width, dtype=torch.float64)
            return {f"{prefix}rows": rows}
        self._fold()
        assert self._scatter is not None
        return {f"{prefix}mean": self._mean, f"{prefix}scatter": self._scatter}


class GroupedMoments:
    """The moments of samples that are dealt to groups (see `group_numbers`), so that a group can be left out.

    Memory: `groups` times that of `FeatureMoments`, twice that once distances were taken: to 26 MB for 10 groups of
    width 400, 670 MB for width 2048.
    """

    def __init__(
        self, width: int, groups: int = GROUPS, seed: int = 0, protocol: Protocol | None = None, per: int = 1
    ) -> None:
        if groups < HARD_MINIMUM:
            raise InputError(f"expected at least {HARD_MINIMUM} groups of samples, got {groups}")
        self.width, self.seed, self.per = width, seed, per
        self.protocol: dict[str, Setting] = dict(protocol or {})
        self.parts = [FeatureMoments(width, protocol) for _ in range(groups)]
        self._scatters: list[FeatureMoments] | None = None  # the parts without rows: made once, joined many times

    @property
    def count(self) -> int:
        """The number of samples in all groups."""
        return sum(part.count for part in self.parts)

    def update(self, features: Tensor) -> None:
        """Add features (N, width). Raises InputError for another shape or values that are not finite."""
        x = check_features(features, "feature moments", self.count, self.width)
        numbers = group_numbers(self.count, len(x), len(self.parts), self.seed, self.per)
        self._scatters = None
        for number in numbers.unique().tolist():
            self.parts[number]._add(x[numbers == number])

    def total(self) -> FeatureMoments:
        """The moments of all samples."""
        return self.subset(range(len(self.parts)))

    def subset(self, numbers: Sequence[int]) -> FeatureMoments:
        """The moments of the samples of these groups."""
        if sum(self.parts[number].count for number in numbers) <= self.width:
            return FeatureMoments.merged([self.parts[number] for number in numbers])
        if self._scatters is None:
            self._scatters = [part._without_rows() for part in self.parts]
        return FeatureMoments.merged([self._scatters[number] for number in numbers])

    def save(self, path: Path) -> None:
        """Write a .safetensors file with the protocol in its header; an interrupted write leaves none."""
        tensors: dict[str, Tensor] = {}
        for number, part in enumerate(self.parts):
            tensors |= part._tensors(f"{number}.")
        counts = [part.count for part in self.parts]
        header = {"protocol": self.protocol, "counts": counts, "seed": self.seed, "per": self.per}
        save_tensors(path, _KIND, tensors, header)

    @staticmethod
    def load(path: Path) -> GroupedMoments:
        """Read what `save` wrote. Raises InputError where the file is missing or does not hold grouped moments."""
        parts, seed, per = _load(path)
        if seed is None:
            raise InputError(f"{path}: holds the moments of one set of samples, expected groups of it")
        grouped = GroupedMoments(parts[0].width, len(parts), seed, parts[0].protocol, per)
        grouped.parts = parts
        return grouped


def _load(path: Path) -> tuple[list[FeatureMoments], int | None, int]:
    """The moments of every group, the groups' seed (of a single set none), and the samples that are dealt together."""
    tensors, header = load_tensors(path, _KIND)
    counts, protocol, seed, per = header["counts"], header["protocol"], header.get("seed"), header.get("per", 1)
    assert isinstance(counts, list) and isinstance(protocol, dict) and isinstance(seed, int | None)
    assert isinstance(per, int)
    prefixes = [""] if seed is None else [f"{number}." for number in range(len(counts))]
    parts = [_from_tensors(tensors, p, count, protocol) for p, count in zip(prefixes, counts, strict=True)]
    return parts, seed, per


def _from_tensors(tensors: Mapping[str, Tensor], prefix: str, count: int, protocol: Protocol) -> FeatureMoments:
    rows = tensors.get(f"{prefix}rows")
    if rows is not None:
        moments = FeatureMoments(rows.shape[1], protocol)
        moments._add(rows)
        return moments
    mean = tensors[f"{prefix}mean"]
    moments = FeatureMoments(len(mean), protocol)
    moments._join(count, mean, tensors[f"{prefix}scatter"])
    return moments
