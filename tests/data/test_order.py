from collections.abc import Callable

import numpy as np
import pytest

from kinolab.data.order import MixedOrder, ShuffledOrder
from kinolab.errors import InputError


def test_every_epoch_is_a_different_permutation() -> None:
    order = ShuffledOrder(12, seed=3, batch_size=4)
    epochs = [[i for step in range(3 * e, 3 * e + 3) for i in order.batch_indices(step)] for e in range(4)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_batches_run_across_epochs_without_losing_examples() -> None:
    order = ShuffledOrder(7, seed=0, batch_size=5)
    seen = [i for step in range(7) for i in order.batch_indices(step)]
    assert [seen.count(i) for i in range(7)] == [5] * 7


def test_a_batch_larger_than_the_data_repeats_it() -> None:
    assert sorted(ShuffledOrder(2, seed=0, batch_size=6).batch_indices(0)) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("groups", [None, [[0, 1, 2, 3, 4], [5, 6, 7]]])
def test_the_step_alone_decides(groups: list[list[int]] | None) -> None:
    first, second = (ShuffledOrder(8, seed=5, batch_size=3, groups=groups) for _ in range(2))
    straight = [first.batch_indices(step) for step in range(30)]
    assert [second.batch_indices(step) for step in reversed(range(30))] == straight[::-1]
    assert ShuffledOrder(8, seed=6, batch_size=3, groups=groups).batch_indices(0) != straight[0]


@pytest.mark.parametrize("groups", [None, [[0, 2, 4, 6], [1, 3, 5, 7, 8]]])
def test_processes_share_what_one_would_see(groups: list[list[int]] | None) -> None:
    alone = ShuffledOrder(9, seed=1, batch_size=4, groups=groups)
    pair = [ShuffledOrder(9, seed=1, batch_size=2, rank=r, world=2, groups=groups) for r in range(2)]
    for step in range(20):
        assert alone.batch_indices(step) == pair[0].batch_indices(step) + pair[1].batch_indices(step)


def test_groups_never_mix_and_an_epoch_holds_everything() -> None:
    groups = [[0, 1, 2, 3, 4], [5, 6, 7]]
    order = ShuffledOrder(8, seed=2, batch_size=2, groups=groups)
    assert order.steps_per_epoch == 5
    batches = [set(order.batch_indices(step)) for step in range(5)]
    assert all(batch <= set(groups[0]) or batch <= set(groups[1]) for batch in batches)
    assert set().union(*batches) == set(range(8))


@pytest.mark.parametrize(
    ("length", "batch", "rank", "world", "groups"),
    [(0, 1, 0, 1, None), (4, 0, 0, 1, None), (4, 1, 1, 1, None), (4, 1, 0, 1, [[0, 1], [1, 2, 3]])],
)
def test_impossible_orders_are_refused(
    length: int, batch: int, rank: int, world: int, groups: list[list[int]] | None
) -> None:
    with pytest.raises(InputError, match="expected"):
        ShuffledOrder(length, 0, batch, rank, world, groups)


GROUPS = [list(range(7)), list(range(7, 10)), list(range(10, 30))]


def mixed(shares: Callable[[np.ndarray], np.ndarray], seed: int = 3) -> MixedOrder:
    return MixedOrder(seed, GROUPS, [2, 3, 4], shares)


def fixed(*shares: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda steps: np.tile(np.array(shares), (len(steps), 1))


def test_mixed_batches_have_their_groups_size_and_members() -> None:
    order = mixed(fixed(1, 2, 3))
    for step in range(60):
        group, batch = order.group(step), order.batch_indices(step)
        assert len(batch) == [2, 3, 4][group] and set(batch) <= set(GROUPS[group])


def test_mixed_groups_run_through_their_own_epochs() -> None:
    order = mixed(fixed(1, 1, 1))
    seen = [i for step in range(120) if order.group(step) == 2 for i in order.batch_indices(step)]
    assert [sorted(seen[k : k + 20]) for k in (0, 20, 40)] == [GROUPS[2]] * 3


def test_mixed_steps_depend_on_nothing_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MixedOrder, "BLOCK", 16)
    straight = [mixed(fixed(1, 2, 3)).batch_indices(step) for step in range(50)]
    whole = mixed(fixed(1, 2, 3))
    assert [whole.batch_indices(step) for step in range(50)] == straight
    assert [whole.batch_indices(step) for step in reversed(range(50))] == straight[::-1]
    assert mixed(fixed(1, 2, 3), seed=4).batch_indices(0) != straight[0] or whole.group(1) != whole.group(2)


def test_shares_are_followed_and_may_change() -> None:
    order = mixed(lambda steps: np.stack([steps / 4000, 0 * steps, 1 - steps / 4000], 1).clip(0))
    drawn = np.array([order.group(step) for step in range(4000)])
    assert not (drawn == 1).any()
    for first in range(0, 4000, 1000):
        expected = (first + 500) / 4000
        assert (drawn[first : first + 1000] == 0).mean() == pytest.approx(expected, abs=0.04)


def test_a_mixed_order_needs_members() -> None:
    with pytest.raises(InputError, match="groups that are not empty"):
        MixedOrder(0, [[0], []], [1, 1], fixed(1, 1))
