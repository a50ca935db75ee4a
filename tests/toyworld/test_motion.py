"""When a motion shows what was asked: every scenario's rule on paths made by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from kinolab.toyworld.motion import direction_holds, motion_holds, moves
from kinolab.toyworld.words import WorldRequest

BALLS = (("red", "ball"), ("blue", "ball"))


def way(*points: tuple[float, float]) -> np.ndarray:
    """A path through points, straight between them, five frames for each stretch."""
    parts = [np.linspace(a, b, 5, endpoint=False) for a, b in itertools.pairwise(points)]
    return np.concatenate([*parts, [points[-1]]])


RIGHT, LEFT = way((0.2, 0.5), (0.6, 0.5)), way((0.8, 0.5), (0.5, 0.5))
DOWN, UP = way((0.5, 0.1), (0.5, 0.8)), way((0.5, 0.9), (0.5, 0.3))
STILL = way((0.5, 0.5), (0.5, 0.5))


@pytest.mark.parametrize(("path", "direction"), [(RIGHT, "right"), (LEFT, "left"), (DOWN, "down"), (UP, "up")])
def test_a_path_goes_its_own_way_and_no_other(path: np.ndarray, direction: str) -> None:
    assert [d for d in ("left", "right", "up", "down") if moves(path, d)] == [direction]
    assert not moves(STILL, direction)
    assert moves(path, direction, margin=2.9) and not moves(path, direction, margin=7.1), "a tenth of the side is one"


def test_the_greatest_displacement_counts_not_the_last() -> None:
    back = way((0.5, 0.5), (0.1, 0.5), (0.6, 0.5))
    assert moves(back, "left") and not moves(back, "right")


def test_a_collision_has_the_direction_of_the_first_object_and_all_else_that_of_every_object() -> None:
    def holds(scenario: str, *paths: np.ndarray) -> bool:
        return direction_holds(WorldRequest(BALLS, scenario, "right"), paths)

    assert holds("collide", RIGHT, LEFT) and holds("collide", RIGHT, STILL) and not holds("collide", LEFT, RIGHT)
    assert holds("throw", RIGHT, RIGHT) and not holds("throw", RIGHT, LEFT) and not holds("throw", RIGHT, STILL)
    assert direction_holds(WorldRequest(BALLS, "throw"), [STILL, LEFT]), "none is asked"


@pytest.mark.parametrize(
    ("scenario", "direction", "paths", "expected"),
    [
        ("fall", None, [DOWN], True),
        ("fall", None, [DOWN, RIGHT], False),
        ("fall", None, [way((0.5, 0.1), (0.5, 0.8), (0.5, 0.7))], False),
        ("bounce", None, [way((0.5, 0.1), (0.5, 0.8), (0.5, 0.7))], True),
        ("bounce", None, [DOWN], False),
        ("bounce", "left", [way((0.8, 0.5), (0.2, 0.5), (0.3, 0.5))], True),
        ("bounce", "right", [way((0.8, 0.5), (0.2, 0.5), (0.3, 0.5))], False),
        ("ramp", None, [way((0.2, 0.2), (0.6, 0.4))], True),
        ("ramp", None, [DOWN], False),
        ("throw", None, [way((0.2, 0.5), (0.5, 0.2), (0.8, 0.8))], True),
        ("throw", None, [DOWN], False),
        ("float", "right", [RIGHT], True),
        ("float", "up", [RIGHT], False),
        ("float", None, [way((0.1, 0.1), (0.8, 0.1), (0.8, 0.3))], True),
        ("float", None, [way((0.1, 0.1), (0.3, 0.25), (0.8, 0.1))], False),
        (None, None, [STILL], True),
    ],
)
def test_scenarios(scenario: str | None, direction: str | None, paths: list[np.ndarray], expected: bool) -> None:
    request = WorldRequest(BALLS[: len(paths)], scenario, direction)
    assert motion_holds(request, paths, [0.1] * len(paths)) == expected


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (way((0.9, 0.5), (0.72, 0.5), (0.9, 0.5)), True),
        (way((0.9, 0.9), (0.75, 0.9), (0.9, 0.9)), False),
        (way((0.75, 0.5), (0.75, 0.5), (0.75, 0.5)), False),
    ],
    ids=["they touch", "they pass", "one stands"],
)
def test_a_collision_needs_both_to_touch_and_to_move(second: np.ndarray, expected: bool) -> None:
    first = way((0.1, 0.5), (0.55, 0.5), (0.4, 0.5))
    assert motion_holds(WorldRequest(BALLS, "collide"), [first, second], [0.08, 0.08]) == expected
    assert not motion_holds(WorldRequest(BALLS[:1], "collide"), [first], [0.08])
