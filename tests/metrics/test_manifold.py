"""Precision, recall, density and coverage: brute force, extremes, subsampling, intervals, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.metrics import manifold
from kinolab.metrics.base import Interval, MetricValue
from kinolab.metrics.features import group_numbers
from kinolab.metrics.manifold import ManifoldMetrics


def scores(real: Tensor, generated: Tensor, **settings: int) -> dict[str, MetricValue]:
    found = ManifoldMetrics(**settings)  # type: ignore[arg-type]
    for x, kind in ((real, True), (generated, False)):
        for part in x.split(11):
            found.update(part, real=kind)
    return found.compute()


def noise(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def brute_force(real: Tensor, generated: Tensor, k: int, wide: int) -> dict[str, float]:
    """The four definitions, sample by sample."""

    def radius(x: Tensor, i: int, k: int) -> float:
        return sorted(float((x[i] - x[j]).norm()) for j in range(len(x)) if j != i)[k - 1]

    def holds(x: Tensor, radii: list[float], y: Tensor) -> list[bool]:
        return [float((point - y).norm()) <= r for point, r in zip(x, radii, strict=True)]

    real_radii, generated_radii = ([radius(x, i, k) for i in range(len(x))] for x in (real, generated))
    wide_radii = [radius(real, i, wide) for i in range(len(real))]
    balls = np.array([holds(real, wide_radii, y) for y in generated])
    return {
        "precision": float(np.mean([any(holds(real, real_radii, y)) for y in generated])),
        "recall": float(np.mean([any(holds(generated, generated_radii, x)) for x in real])),
        "density": float(balls.sum() / (wide * len(generated))),
        "coverage": float(balls.any(0).mean()),
    }


@pytest.mark.parametrize(("n", "m", "k", "wide"), [(40, 30, 3, 5), (25, 45, 2, 2)])
def test_agrees_with_brute_force(n: int, m: int, k: int, wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifold, "_ROWS", 16)  # several chunks, the last one short
    real, generated = noise(n, 6, 1), 0.8 * noise(m, 6, 2) + 0.5
    found = scores(real, generated, manifold_neighbours=k, coverage_neighbours=wide)
    expected = brute_force(real, generated, k, wide)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert value > 0
        assert found[name].value == pytest.approx(value, rel=1e-12)
        assert found[name].count == m and found[name].protocol["real_samples"] == n
    assert found["recall"].protocol["neighbours"] == k and found["density"].protocol["neighbours"] == wide


def test_the_jackknife_leaves_out_groups_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """The values without a group are those of a metric that never saw it."""
    real, generated = noise(40, 6, 1), noise(30, 6, 2) + 0.3
    seen: list[list[list[float]]] = []
    plain = ManifoldMetrics._share_interval

    def spy(self: ManifoldMetrics, value: float, count: int, parts: list[list[float]]) -> Interval:
        seen.append(parts)
        return plain(self, value, count, parts)

    monkeypatch.setattr(ManifoldMetrics, "_share_interval", spy)
    scores(real, generated)
    g, h = group_numbers(0, 40, 10, 0), group_numbers(0, 30, 10, 0)
    for group in (0, 7):
        without_real = brute_force(real[g != group], generated, 3, 5)
        without_generated = brute_force(real, generated[h != group], 3, 5)
        assert seen[0][0][group] == pytest.approx(without_real["precision"])
        assert seen[0][1][group] == pytest.approx(without_generated["precision"])
        assert seen[1][0][group] == pytest.approx(without_generated["recall"])
        assert seen[1][1][group] == pytest.approx(without_real["recall"])
        assert seen[2][0][group] == pytest.approx(without_real["coverage"])
        assert seen[2][1][group] == pytest.approx(without_generated["coverage"])


def test_extremes() -> None:
    x = noise(60, 8, 1)
    same = scores(x, x)
    assert [same[n].value for n in ("precision", "recall", "coverage")] == [1.0, 1.0, 1.0]
    assert same["density"].value == pytest.approx(brute_force(x, x, 3, 5)["density"])
    far = scores(x, x + 100)
    assert [value.value for value in far.values()] == [0.0] * 4
    frozen = scores(x, x[:1].repeat(60, 1))  # one real clip, again and again
    assert frozen["precision"].value == 1.0 and frozen["coverage"].value < 0.3
    assert frozen["recall"].value == pytest.approx(1 / 60)  # its own copy, although its ball has no width
    narrow = scores(x, 0.3 * noise(60, 8, 2))
    assert narrow["precision"].value > 0.95 and narrow["recall"].value < 0.3 and narrow["density"].value > 1


def test_shares_at_the_ends_still_have_an_interval() -> None:
    x = noise(60, 8, 1)
    interval = scores(x, x)["precision"].interval
    assert interval is not None and interval.high == 1.0 and 0.9 < interval.low < 0.99


@pytest.mark.slow
def test_intervals_hold_as_often_as_they_say() -> None:
    found = [scores(noise(60, 4, 2 * s), noise(60, 4, 2 * s + 1) + 0.5) for s in range(60)]
    for name in found[0]:
        mean = np.mean([f[name].value for f in found])
        intervals = [f[name].interval for f in found]
        assert np.mean([i is not None and i.low <= mean <= i.high for i in intervals]) >= 0.9


def test_above_the_maximum_a_choice_is_kept() -> None:
    x, y = noise(300, 4, 1), noise(300, 4, 2)
    few = scores(x, y, maximum=100)
    assert few["precision"].protocol["maximum"] == 100 and few["precision"].count == 300
    assert few == scores(x, y, maximum=100)
    assert few["precision"].value == pytest.approx(scores(x, y)["precision"].value, abs=0.15)


def test_order_does_not_matter() -> None:
    x, y = noise(50, 6, 1), noise(50, 6, 2)
    for name, value in scores(x.flip(0), y.flip(0)).items():
        assert value.value == pytest.approx(scores(x, y)[name].value, rel=1e-12)


def test_refusals() -> None:
    x = noise(50, 6, 1)
    with pytest.raises(InputError, match="precision and recall needs at least 16 generated samples, got 2: "):
        scores(x, x[:2])
    with pytest.raises(InputError, match="twice the neighbours"):
        ManifoldMetrics(coverage_neighbours=9)
    bad = x.clone()
    bad[20] = torch.inf
    with pytest.raises(InputError, match=r"\(real\): 1 of 11 .* sample 20 "):
        scores(bad, x)
