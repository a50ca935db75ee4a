"""Measures of motion, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kinolab.metrics.physics import (
    TrueObject,
    at_places,
    constant_velocity,
    contact,
    copy_last,
    energy,
    energy_drift,
    momentum,
    momentum_drift,
)
from kinolab.toyworld.clips import WorldConfig, make_clip
from tests.closeness import assert_close


def falling(frames: int, gravity: float = 0.4) -> np.ndarray:
    t = np.arange(frames)
    return np.stack([2.0 * t, 10 + 0.5 * gravity * t**2], 1)


def test_baselines() -> None:
    path = falling(8)
    still = copy_last(path, 3)
    assert np.array_equal(still[:3], path[:3]) and (still[3:] == path[2]).all()
    straight = constant_velocity(path, 3)
    assert np.array_equal(straight[:3], path[:3])
    assert_close(np.diff(straight[1:], axis=0), np.tile(path[2] - path[1], (6, 1)))
    assert np.isnan(constant_velocity(path, 1)[1:]).all()


def test_a_fall_keeps_its_energy_and_gains_momentum() -> None:
    path, masses = falling(10)[None], np.array([3.0])
    total = energy(path, masses, 0.4, 60.0)
    # Differences of positions have the velocity between two frames, and heights are averaged over them.
    assert np.ptp(total) / total.mean() < 0.01
    p = momentum(path, masses)
    assert_close(p[:, 0], np.full(len(p), 6.0))
    assert_close(np.diff(p[:, 1]), np.full(len(p) - 1, 3 * 0.4))
    rising = energy(path, masses, 0.0, 60.0)
    assert rising[-1] > 1.5 * rising[0], "without its potential energy, a fall gains energy"


def test_drifts_are_zero_for_the_truth_and_one_for_what_stands_still() -> None:
    t = np.arange(9.0)
    path = np.stack([np.stack([3 * t, 0 * t + 5], 1), np.stack([40 - t, 0 * t + 9], 1)])
    masses = np.array([1.0, 2.0])
    assert momentum_drift(path, path, masses, 4) == 0 and energy_drift(path, path, masses, 4, 0.0, 64.0) == 0
    still = np.stack([copy_last(p, 4) for p in path])
    assert energy_drift(still, path, masses, 4, 0.0, 64.0) == pytest.approx(1.0)
    # The two momenta, +3 and -2, add up to 1 of 5.
    assert momentum_drift(still, path, masses, 4) == pytest.approx(1 / 5)
    assert math.isnan(momentum_drift(still, still, masses, 4))


def test_the_time_of_a_contact() -> None:
    x = np.array([0.0, 3, 6, 9, 8, 7, 6])
    path = np.stack([x, np.zeros(7)], 1)
    assert contact(path, 2) == (3, pytest.approx(4.0))
    assert contact(path, 5)[1] == pytest.approx(0.0), "contacts in the given frames don't count"
    assert contact(np.full((6, 2), np.nan), 2) == (-1, 0.0)


def test_places_and_colours_are_told_apart() -> None:
    clip = make_clip(WorldConfig(frames=6, scenarios={"float": 1.0}, max_objects=1), 3)
    (state,) = clip.state
    objects = [TrueObject(state.colour, state.shape, state.position, 1.0)]
    found = at_places(clip.frames, objects, 2)
    assert found.distance.shape == (1, 4) and found.kept.all() and (found.distance < 0.5).all()
    other = at_places(clip.frames, [TrueObject("none", "none", state.position + 3, 1.0)], 2)
    assert other.there.all() and not other.colour.any() and not other.shape.any()
    assert_close(other.distance, np.full((1, 4), np.hypot(3, 3)), within=1e-1)
    away = at_places(clip.frames, [TrueObject(state.colour, state.shape, state.position + 40, 1.0)])
    assert not away.there.any() and not away.kept.any()
    twice = clip.frames.repeat(2, 1).repeat(2, 2)
    assert at_places(twice, objects, 2).distance.max() < 0.5, "in pixels of a frame of 64"
