"""Streamed mean and covariance, groups of samples, the bounded store, and their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.metrics.features import FeatureBank, Protocol, group_numbers, save_tensors
from kinolab.metrics.moments import FeatureMoments, GroupedMoments
from tests.closeness import assert_close


def samples(count: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, dtype=torch.float64, generator=generator)
    return torch.randn(count, width, dtype=torch.float64, generator=generator) @ mixing + 3


def moments(x: Tensor, *batches: int) -> FeatureMoments:
    found = FeatureMoments(x.shape[1])
    for part in x.split(list(batches) or [len(x)]):
        found.update(part)
    return found


def same(a: FeatureMoments, b: FeatureMoments) -> None:
    assert a.count == b.count
    assert_close(a.mean, b.mean, within=1e-12)
    assert_close(a.covariance, b.covariance, within=1e-11)


@pytest.mark.parametrize(("count", "width"), [(5, 8), (8, 8), (9, 8), (1000, 8)])
def test_moments_agree_with_numpy(count: int, width: int) -> None:
    x = samples(count, width)
    found = moments(x)
    assert found.low_rank == (count <= width)
    assert_close(found.mean, x.mean(0), within=1e-12)
    assert_close(found.covariance, torch.from_numpy(np.cov(x.numpy(), rowvar=False)))
    factor = found.factor()
    assert_close(factor.T @ factor, found.covariance, within=1e-10)


def test_order_and_batches_do_not_matter() -> None:
    x = samples(700, 6)
    whole = moments(x)
    same(whole, moments(x, 1, 3, 2, 290, 4, 400))
    same(whole, moments(x.flip(0), 350, 350))
    reading = FeatureMoments(6)
    for row in x.split(7):  # reading in between changes nothing
        reading.update(row)
        assert reading.mean.shape == (6,)
    same(whole, reading)


def test_a_large_mean_does_not_cost_digits() -> None:
    x = samples(2000, 4)
    near = moments(x, *[100] * 20).covariance
    assert_close(moments(x + 1e7, *[100] * 20).covariance, near, within=1e-6)


@pytest.mark.parametrize("counts", [(2, 3), (2, 50), (50, 40), (300, 1)])
def test_merged_parts_are_the_whole(counts: tuple[int, int]) -> None:
    x = samples(sum(counts), 8)
    parts = [moments(part) for part in x.split(list(counts))]
    same(FeatureMoments.merged(parts), moments(x))
    same(parts[0], moments(x[: counts[0]]))  # and the parts stay as they were


def test_features_the_caller_changes_later_are_not_changed_here() -> None:
    x = samples(5, 8)
    found, bank = moments(x), FeatureBank(10, 0)
    bank.update(x)
    before, kept = found.mean.clone(), bank.features().clone()
    x.zero_()
    assert torch.equal(found.mean, before) and torch.equal(bank.features(), kept)


def test_bad_features_are_refused_in_one_line() -> None:
    found = moments(samples(10, 4))
    bad = samples(3, 4)
    bad[1, 2], bad[2, 0] = torch.nan, torch.inf
    with pytest.raises(InputError, match=r"2 of 3 feature vectors hold NaN or infinity, the first is of sample 11 "):
        found.update(bad)
    with pytest.raises(InputError, match="width 4 as before, got 5"):
        found.update(samples(3, 5))
    with pytest.raises(InputError, match=r"expected feature vectors \(N, D\), got \(3,\)"):
        found.update(torch.zeros(3))
    same(found, moments(samples(10, 4)))
    with pytest.raises(InputError, match="at least 2 samples, got 1"):
        _ = moments(samples(1, 4)).covariance


def test_groups_are_even_random_and_independent_of_batches() -> None:
    numbers = group_numbers(0, 105, 10, 3)
    assert sorted(torch.bincount(numbers, minlength=10).tolist()) == [10] * 5 + [11] * 5
    assert torch.equal(numbers, torch.cat([group_numbers(a, b - a, 10, 3) for a, b in ((0, 7), (7, 40), (40, 105))]))
    assert not torch.equal(numbers[:10], numbers[10:20]) and not torch.equal(numbers, group_numbers(0, 105, 10, 4))
    assert len(group_numbers(20, 0, 10, 3)) == 0


def test_grouped_moments_add_up_and_leave_out() -> None:
    x = samples(203, 8)
    grouped = GroupedMoments(8, 10, seed=1)
    for part in x.split(17):
        grouped.update(part)
    same(grouped.total(), moments(x))
    numbers = group_numbers(0, 203, 10, 1)
    same(grouped.subset([k for k in range(10) if k != 4]), moments(x[numbers != 4]))


@pytest.mark.parametrize("count", [5, 400])
def test_files_give_back_what_was_saved(tmp_path: Path, count: int) -> None:
    x = samples(count, 8)
    protocol: Protocol = {"extractor": "toy", "frames": 16}
    single, grouped = FeatureMoments(8, protocol), GroupedMoments(8, 3, seed=7, protocol=protocol)
    single.update(x)
    grouped.update(x)
    single.save(tmp_path / "new" / "single.safetensors")
    grouped.save(tmp_path / "grouped.safetensors")
    loaded = FeatureMoments.load(tmp_path / "new" / "single.safetensors")
    same(loaded, single)
    assert loaded.protocol == protocol and loaded.low_rank == single.low_rank
    again = GroupedMoments.load(tmp_path / "grouped.safetensors")
    assert again.protocol == protocol and again.seed == 7
    for a, b in zip(again.parts, grouped.parts, strict=True):
        assert a.count == b.count and torch.equal(a.mean, b.mean)
    same(FeatureMoments.load(tmp_path / "grouped.safetensors"), single)
    again.update(x)  # goes on where the saved one stopped
    assert again.count == 2 * count
    assert not list(tmp_path.rglob(".writing-*"))


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.safetensors: not a readable file of feature moments"):
        FeatureMoments.load(tmp_path / "none.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"something else")
    with pytest.raises(InputError, match="not a readable file"):
        GroupedMoments.load(broken)
    save_tensors(tmp_path / "other.safetensors", "cats", {"a": torch.zeros(1)}, {})
    with pytest.raises(InputError, match="its header says 'cats'"):
        FeatureMoments.load(tmp_path / "other.safetensors")
    moments(samples(5, 8)).save(tmp_path / "single.safetensors")
    with pytest.raises(InputError, match="one set of samples, expected groups of it"):
        GroupedMoments.load(tmp_path / "single.safetensors")


@pytest.mark.slow
def test_the_bank_keeps_a_fair_choice() -> None:
    x = torch.arange(1000, dtype=torch.float64)[:, None]
    bank, other = FeatureBank(100, 5), FeatureBank(100, 5)
    bank.update(x)
    for part in x.split(13):
        other.update(part)
    kept = bank.features()
    assert torch.equal(kept, other.features()) and bank.count == 1000
    assert len(kept) == 100 and bool((kept.diff(dim=0) > 0).all())
    means = []
    for seed in range(200):
        bank = FeatureBank(20, seed)
        for part in x.split(50):
            bank.update(part)
        means.append(float(bank.features().mean()))
    # the mean of 20 out of 1000 has a deviation of 64
    assert abs(np.mean(means) - 499.5) < 4 * 64 / 200**0.5 and 50 < np.std(means) < 80


def test_two_processes_may_write_one_file(tmp_path: Path) -> None:
    """What another process has begun to write beside it stays untouched."""
    other = tmp_path / ".writing-a.safetensors"
    other.write_bytes(b"half")
    save_tensors(tmp_path / "a.safetensors", "cats", {"a": torch.zeros(1)}, {})
    assert other.read_bytes() == b"half" and (tmp_path / "a.safetensors").is_file()
