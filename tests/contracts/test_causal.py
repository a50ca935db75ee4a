"""Which frames a block of a stream reads, where they count as standing, and that nobody reads what comes later."""

from __future__ import annotations

import pytest

from kinolab.contracts.causal import BlockCausal, CausalConfig, place, rotary_start
from kinolab.contracts.reach import Reach

RULES = [
    CausalConfig(),
    CausalConfig(block=3, window=1),
    CausalConfig(block=2, first=1, window=2, sink=True),
    CausalConfig(block=1, window=4, period=5),
]


@pytest.mark.parametrize("rule", RULES)
def test_blocks_follow_each_other_and_read_the_past_alone(rule: CausalConfig) -> None:
    cuts = rule.cuts(13)
    assert [start for start, _ in cuts] == [0, *(end for _, end in cuts[:-1])]
    assert cuts[-1][1] == 13
    for number, (start, end) in enumerate(cuts):
        assert {rule.block_of(frame) for frame in range(start, end)} == {number}
        assert all(frame < start for frame in rule.past(number))
    for frame, read in enumerate(Reach(BlockCausal(rule)).lists(13)):
        assert frame in read
        assert {rule.block_of(other) for other in read} <= set(range(rule.block_of(frame) + 1))


def test_a_window_moves_on_and_a_sink_stays() -> None:
    rule = CausalConfig(block=2, first=1, window=2, sink=True)
    assert [rule.past(block) for block in range(5)] == [(), (0,), (0, 1, 2), (0, 1, 2, 3, 4), (0, 3, 4, 5, 6)]


def test_what_was_first_counts_as_standing_right_before_the_window() -> None:
    plan = BlockCausal(CausalConfig(block=1, window=2, sink=True)).plan(6)
    assert [block.times for block in plan.blocks] == [
        (0,), (-1, 0), (-2, -1, 0), (-3, -2, -1, 0), (-3, -2, -1, 0), (-3, -2, -1, 0),
    ]  # fmt: skip
    assert plan.blocks[5].read == (0, 3, 4, 5)


def test_noisy_blocks_of_a_doubled_clip_read_clean_frames_and_themselves() -> None:
    plan = BlockCausal(CausalConfig(block=2, window=1), doubled=True).plan(8)
    assert [(block.own, block.read) for block in plan.blocks] == [
        ((0, 2), (0, 1)), ((2, 4), (0, 1, 2, 3)), ((4, 6), (4, 5)), ((6, 8), (0, 1, 6, 7)),
    ]  # fmt: skip
    assert plan.numbers == (0, 1, 2, 3, 0, 1, 2, 3)


def test_tables_of_positions_roll_and_never_show_the_beginning_again() -> None:
    assert [place(frame, 5, None) for frame in range(10)] == [0, 1, 2, 3, 4, 1, 2, 3, 4, 1]
    assert [place(frame, 5, 3) for frame in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert [place(frame, 1, None) for frame in range(3)] == [0, 0, 0]
    assert [rotary_start(number, 2, 5, None) for number in (0, 2, 4, 96)] == [0, 2, 3, 3]
    assert rotary_start(96, 1, 5, 5) == 1
