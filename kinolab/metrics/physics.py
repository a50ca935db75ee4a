"""Motion measured against the simulator's: positions, momentum, energy and the time of a collision.

Positions are (T, 2) pixels, (x, y) with y down, velocities are differences of positions in pixels per frame. Masses are
areas, as in the toy world, where all objects have one density.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kinolab.toyworld.reader import ReadObject, Spot, WorldReading, read_spots
from kinolab.toyworld.scenes import FRAME

EVENT = 1.0
"""Pixels per frame by which a velocity changes in one frame at least, for that to count as a contact (of a 64 px frame;
gravity alone gives 0.33 at 8 frames per second)."""

REACH = 8.0
"""Pixels (of a 64 px frame) within which a coloured spot is taken for the object that ought to be there."""


@dataclass(frozen=True, eq=False)
class TrueObject:
    """What is known of an object: its colour and shape, its positions (T, 2) in pixels and its area in pixels."""

    colour: str
    shape: str
    position: np.ndarray
    area: float


def find_objects(reading: WorldReading, objects: Sequence[TrueObject]) -> list[ReadObject | None]:
    """The object of each one's colour in a video; None where it does not show."""
    return [reading.find(o.colour) for o in objects]


def positions_of(found: ReadObject | None, frames: int) -> np.ndarray:
    """(T, 2) pixels of an object that was read; straight lines where it is hidden, NaN where it is not there at all."""
    return np.full((frames, 2), np.nan) if found is None else found.path * found.side


@dataclass(frozen=True, eq=False)
class AtPlace:
    """What a video shows at the places of N true objects in T frames, each array (N, T).

    `distance`: to the nearest coloured spot within REACH, in pixels of a 64 px frame, whatever its colour; infinite
    where there is none. `colour`, `shape`: whether that spot has the object's own, as it shows in that frame alone.
    """

    distance: np.ndarray
    colour: np.ndarray
    shape: np.ndarray

    @property
    def there(self) -> np.ndarray:
        """(N, T) bool: where a spot is within reach."""
        return np.isfinite(self.distance)

    @property
    def kept(self) -> np.ndarray:
        """(N, T) bool: where it has the object's own colour and shape too."""
        return self.colour & self.shape


def at_places(frames: np.ndarray, objects: Sequence[TrueObject], first: int = 0) -> AtPlace:
    """Match true objects to the spots of a video (T, H, W, 3) uint8 by place alone, from frame `first` on.

    So an object that keeps its path and changes its colour is told from one that is lost. Positions are those of a
    64 px frame.
    """
    scale = FRAME / min(frames.shape[1:3])
    spots: list[list[Spot]] = [[] for _ in frames]
    for spot in read_spots(frames):
        spots[spot.time].append(spot)
    shape = len(objects), len(frames) - first
    found = AtPlace(np.full(shape, np.inf), np.zeros(shape, bool), np.zeros(shape, bool))
    for n, o in enumerate(objects):
        for t in range(first, len(frames)):
            x, y = o.position[t]
            off = [(math.hypot(spot.x * scale - x, spot.y * scale - y), spot) for spot in spots[t]]
            distance, near = min(off, key=lambda pair: pair[0], default=(math.inf, None))
            if near is not None and distance <= REACH:
                found.distance[n, t - first] = distance
                found.colour[n, t - first] = near.colour == o.colour
                found.shape[n, t - first] = near.shape == o.shape
    return found


def constant_velocity(position: np.ndarray, given: int) -> np.ndarray:
    """Positions (T, 2) going on from the first `given` ones as the last two of them do; NaN where there is one."""
    steps = np.arange(len(position) - given) + 1.0
    velocity = position[given - 1] - position[given - 2] if given > 1 else np.full(2, np.nan)
    return np.concatenate([position[:given], position[given - 1] + steps[:, None] * velocity])


def copy_last(position: np.ndarray, given: int) -> np.ndarray:
    """Positions (T, 2) that stay where the last of the first `given` ones is."""
    return np.concatenate([position[:given], np.repeat(position[given - 1 : given], len(position) - given, axis=0)])


def momentum(positions: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Total momentum (T - 1, 2) of objects at positions (N, T, 2)."""
    return (masses[:, None, None] * np.diff(positions, axis=1)).sum(0)


def energy(positions: np.ndarray, masses: np.ndarray, gravity: float, floor: float) -> np.ndarray:
    """Total kinetic and potential energy (T - 1,) of objects at positions (N, T, 2), between frames.

    gravity: pixels per frame^2; floor: the height, in pixels from above, at which the potential energy is zero.
    """
    kinetic = 0.5 * (np.diff(positions, axis=1) ** 2).sum(-1)
    height = floor - 0.5 * (positions[:, 1:, 1] + positions[:, :-1, 1])
    return (masses[:, None] * (kinetic + gravity * height)).sum(0)


def momentum_drift(predicted: np.ndarray, true: np.ndarray, masses: np.ndarray, given: int) -> float:
    """Mean distance of the total momenta over the predicted frames, as a share of the mean of sum(m |v|) in truth."""
    now = slice(given - 1, None)
    scale = (masses[:, None] * np.linalg.norm(np.diff(true, axis=1), axis=-1)).sum(0)[now].mean()
    off = np.linalg.norm(momentum(predicted, masses) - momentum(true, masses), axis=-1)[now].mean()
    return float(off / scale) if scale > 0 else math.nan


def energy_drift(
    predicted: np.ndarray, true: np.ndarray, masses: np.ndarray, given: int, gravity: float, floor: float
) -> float:
    """Mean distance of the energies over the predicted frames, as a share of the mean energy in truth."""
    now = slice(given - 1, None)
    wanted = energy(true, masses, gravity, floor)[now]
    off = np.abs(energy(predicted, masses, gravity, floor)[now] - wanted).mean()
    return float(off / wanted.mean()) if wanted.mean() > 0 else math.nan


def contact(positions: np.ndarray, given: int) -> tuple[int, float]:
    """The predicted frame at which an object's velocity changes most, and by how much (pixels per frame)."""
    first = max(given - 1, 0)  # the change at frame k is between the steps to it and from it
    change = np.linalg.norm(np.diff(positions, n=2, axis=0), axis=-1)[first:]
    if not len(change) or not np.isfinite(change).all():
        return -1, 0.0
    return int(change.argmax()) + first + 1, float(change.max())
