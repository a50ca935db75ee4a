"""When does a motion show what was asked? One rule for the generator's truth and for the reader's measurement.

Paths are (T, 2) positions (x to the right, y down) as fractions of the frame's side, so the rule holds at any size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kinolab.toyworld.words import WorldRequest

_AXES = {"left": (0, -1.0), "right": (0, 1.0), "up": (1, -1.0), "down": (1, 1.0)}
# The generator keeps only scenes that pass with these times the least movement, so that the reader's rule, which uses
# the plain thresholds, is not decided by its measurement error.
GENERATOR_MARGIN = 1.5
_LEAST_MOVE = 0.1
_LEAST_RETURN = 0.06
_LEAST_PUSH = 0.03
_MOST_UNEVEN = 0.06


def moves(path: np.ndarray, direction: str, margin: float = 1.0) -> bool:
    """Whether the greatest displacement from the start, along the direction's axis, goes that way and is clear.

    The greatest, not the last: a thrown ball that rolls back from a wall was still thrown to the left.
    """
    axis, sign = _AXES[direction]
    shift = (path[:, axis] - path[0, axis]) * sign
    return bool(shift[np.argmax(np.abs(shift))] >= _LEAST_MOVE * margin)


def direction_holds(request: WorldRequest, paths: Sequence[np.ndarray], margin: float = 1.0) -> bool:
    """Whether the objects (in "collide": the first one) move in the request's direction; True when it asks none."""
    if request.direction is None:
        return True
    subjects = paths[:1] if request.scenario == "collide" else paths
    return all(moves(path, request.direction, margin) for path in subjects)


def motion_holds(
    request: WorldRequest, paths: Sequence[np.ndarray], extents: Sequence[float], margin: float = 1.0
) -> bool:
    """Whether the objects do what the scenario says, direction aside.

    `extents` are the radii (balls) and half sides (boxes), as fractions of the frame's side.
    """
    if request.scenario == "fall":
        return all(moves(p, "down", margin) and _returns(p, "down") < _LEAST_RETURN / margin for p in paths)
    if request.scenario == "bounce":
        way = request.direction or "down"
        return all(moves(p, way, margin) and _returns(p, way) >= _LEAST_RETURN * margin for p in paths)
    if request.scenario == "collide":
        return len(paths) == 2 and _collides(paths, extents, margin)
    if request.scenario == "ramp":
        return all(moves(p, "down", 0.6 * margin) and _horizontal(p) >= _LEAST_MOVE for p in paths)
    if request.scenario == "throw":
        return all(_horizontal(p) >= _LEAST_MOVE * margin for p in paths)
    if request.scenario == "float":
        return all(_straight(p, request.direction, margin) for p in paths)
    return True


def _horizontal(path: np.ndarray) -> float:
    return float(np.abs(path[:, 0] - path[0, 0]).max())


def _returns(path: np.ndarray, direction: str) -> float:
    """How far the object comes back after it went furthest in the direction."""
    axis, sign = _AXES[direction]
    along = path[:, axis] * sign
    furthest = int(np.argmax(along))
    return float(along[furthest] - along[furthest:].min())


def _straight(path: np.ndarray, direction: str | None, margin: float) -> bool:
    """Whether the way to the first turn is even, and along the direction's axis (any axis when none is asked)."""
    shift = path - path[0]
    far = np.abs(shift).max(1)
    end = int(np.argmax(far >= 0.95 * far.max()))
    furthest = np.abs(shift[end])
    axis = int(np.argmax(furthest)) if direction is None else _AXES[direction][0]
    even = np.linspace(0.0, 1.0, end + 1)[:, None] * shift[end]
    drift = np.abs(shift[: end + 1] - even).max()
    far_enough = furthest[axis] >= _LEAST_MOVE * margin
    return bool(furthest[axis] >= 1.5 * furthest[1 - axis] and far_enough and drift <= _MOST_UNEVEN / margin)


def _collides(paths: Sequence[np.ndarray], extents: Sequence[float], margin: float) -> bool:
    """Whether the two come close enough to touch, at or between two frames, and both are moving by the end."""
    gap = np.linalg.norm(paths[0] - paths[1], axis=1)
    step = np.abs(np.diff(gap)).max(initial=0.0)
    near = gap.min() <= 1.15 * (extents[0] + extents[1]) + min(step, 0.06)
    moved = all(np.linalg.norm(p - p[0], axis=1).max() >= _LEAST_PUSH * margin for p in paths)
    return bool(near and moved)
