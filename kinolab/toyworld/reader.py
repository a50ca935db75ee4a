"""Reads the toy world back from pixels: which objects a video shows, where, and whether that is what was asked.

No learned judge: hue finds the colours (the world's background and floor are grey, so a pixel's chroma says how much
of an object covers it), connected components find the objects, centroids weighted by coverage place them to a
fraction of a pixel, a fourth-order moment tells boxes from balls, and paths say how they move. Works on generated
videos too: colours may be a little off, edges blurred, frames noisy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kinolab.errors import InputError
from kinolab.toyworld.motion import direction_holds, motion_holds, moves
from kinolab.toyworld.words import COLOURS, DIRECTIONS, WorldRequest

# Orthonormal axes of the plane of chroma, perpendicular to grey.
_CHROMA = np.array([[2.0, -1.0, -1.0], [0.0, np.sqrt(3.0), -np.sqrt(3.0)]], np.float32).T / np.float32(np.sqrt(6.0))
_NAMES = tuple(COLOURS)
_PALETTE = np.array([COLOURS[name] for name in _NAMES], np.float32) @ _CHROMA
_STRENGTH = np.linalg.norm(_PALETTE, axis=1)
_HUES = _PALETTE / _STRENGTH[:, None]
# A pixel belongs to an object's core when this much of its palette colour's chroma is there.
_CORE = 0.45
# Chroma below this share of the object's own counts as background: the greys are not perfectly neutral.
_FAINT = 0.08
# |sum w z^4| / (sum w)^3 with z = (x + iy) about the centroid is 0 for a disk and 1/60 for a square, whatever the
# rotation, and isotropic blur does not change the sum (z^4 is harmonic).
_BOX_MOMENT = 1 / 60 * 0.45
_GROWTH = 3
_CHUNK = 32
# A colour that shows in fewer of the frames is noise or the blend of two objects that touch.
_PRESENT = 0.2


@dataclass(frozen=True, eq=False)
class ReadObject:
    """One object followed through a video.

    `position`: (T, 2) centre (x, y) in pixels, pixel j covering [j, j + 1]; NaN where the object is not seen.
    `area`: (T,) covered pixels, NaN likewise. `squareness`: (T,) the fourth moment, 0 for a disk and 1 for a square.
    `side`: the shorter side of the frame in pixels.
    """

    colour: str
    shape: str
    position: np.ndarray
    area: np.ndarray
    squareness: np.ndarray
    side: int

    @property
    def seen(self) -> np.ndarray:
        """(T,) bool: the frames that show the object."""
        return np.isfinite(self.area)

    @property
    def extent(self) -> float:
        """The radius of a ball, half the side of a box, in pixels."""
        area = float(np.nanmedian(self.area))
        return float(np.sqrt(area / np.pi)) if self.shape == "ball" else float(np.sqrt(area) / 2)

    @property
    def path(self) -> np.ndarray:
        """The position in every frame (T, 2), as fractions of the frame's side.

        Where the object is not seen it is on the straight line between its neighbours in time; so the paths of two
        objects can be compared frame by frame even where one of them flickers.
        """
        frames, seen = np.arange(len(self.seen)), np.flatnonzero(self.seen)
        return np.stack([np.interp(frames, seen, self.position[seen, k]) for k in (0, 1)], axis=1) / self.side

    @property
    def directions(self) -> tuple[str, ...]:
        """Every direction in which the object clearly moves, for example ("right", "down")."""
        return tuple(way for way in DIRECTIONS if moves(self.path, way))

    @property
    def steady(self) -> bool:
        """Whether it is one and the same object throughout: always seen, no jump, no change of size or shape."""
        if not self.seen.all():
            return False
        jumps = np.linalg.norm(np.diff(self.position, axis=0), axis=1).max(initial=0.0)
        thirds = [part for part in np.array_split(np.arange(len(self.area)), 3) if len(part)]
        areas = [float(np.median(self.area[part])) for part in thirds]
        shapes = [float(np.median(self.squareness[part])) for part in thirds]
        # Half a unit of squareness parts a disk from a square; a third must not lie clearly on the other side.
        other = max(shapes) < 0.65 if self.shape == "ball" else min(shapes) > 0.25
        return bool(jumps <= 0.2 * self.side and max(areas) <= 1.6 * min(areas) and other)


@dataclass(frozen=True, eq=False)
class WorldReading:
    """What a video shows. `steady`: every object keeps its identity and none splits, appears or vanishes."""

    objects: tuple[ReadObject, ...]
    frames: int
    steady: bool

    @property
    def count(self) -> int:
        return len(self.objects)

    def find(self, colour: str) -> ReadObject | None:
        """The object of a colour (the largest, were there several), or None."""
        same = [o for o in self.objects if o.colour == colour]
        return max(same, key=lambda o: o.extent, default=None)


@dataclass(frozen=True)
class WorldCheck:
    """Whether a video shows what was asked.

    `colours`: exactly the asked colours show. `shapes`: each asked object is there in its shape. `count`: as many
    objects as asked. `direction`: they move the asked way. `motion`: they do what the scenario says. `identity`:
    every object stays itself through the video. `physics`: the typical distance of the paths from motion with
    constant acceleration over five frames, in 64ths of the frame's side (contacts, which are few, aside by the
    median); NaN where the video is shorter or shows nothing.
    """

    colours: bool
    shapes: bool
    count: bool
    direction: bool
    motion: bool
    identity: bool
    physics: float

    @property
    def passed(self) -> bool:
        """Whether everything asked for shows."""
        return all((self.colours, self.shapes, self.count, self.direction, self.motion, self.identity))


def read_world(frames: np.ndarray) -> WorldReading:
    """Find the objects of the toy world in a video.

    Args:
        frames: (T, H, W, 3) uint8.

    Raises:
        InputError: when the array is not a video of that layout.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise InputError(f"expected frames (T, H, W, 3) uint8, got {frames.shape} {frames.dtype}")
    found = [spot for start in range(0, len(frames), _CHUNK) for spot in _spots(frames[start : start + _CHUNK], start)]
    objects: list[ReadObject] = []
    steady = True
    for colour in _NAMES:
        spots = _real([spot for spot in found if spot.colour == colour], len(frames), min(frames.shape[1:3]))
        per_frame = Counter(spot.time for spot in spots)
        if len(per_frame) < max(1.0, _PRESENT * len(frames)):
            continue
        count = Counter(per_frame.values()).most_common(1)[0][0]
        steady = steady and all(n == count for n in per_frame.values())
        objects += [_follow(track, len(frames), min(frames.shape[1:3])) for track in _tracks(spots, count)]
    return WorldReading(tuple(objects), len(frames), steady and all(o.steady for o in objects) and bool(objects))


def read_spots(frames: np.ndarray) -> list[Spot]:
    """Every coloured spot of a video (T, H, W, 3) uint8 by itself, not followed in time.

    Specks smaller than any object of the world are left out.
    """
    frames = np.asarray(frames)
    least = 12.0 * (min(frames.shape[1:3]) / 64) ** 2
    parts = (_spots(frames[start : start + _CHUNK], start) for start in range(0, len(frames), _CHUNK))
    return [spot for part in parts for spot in part if spot.area >= least]


def check(request: WorldRequest, reading: WorldReading) -> WorldCheck:
    """Compare what was asked with what a video shows."""
    asked = dict(request.objects)
    found = [reading.find(colour) for colour, _ in request.objects]
    known = [o for o in found if o is not None]
    whole = len(known) == len(found)
    paths = [o.path for o in known]
    extents = [o.extent / o.side for o in known]
    return WorldCheck(
        colours={o.colour for o in reading.objects} == set(asked),
        shapes=whole and all(o.shape == asked[o.colour] for o in known),
        count=reading.count == len(request.objects),
        direction=whole and direction_holds(request, paths),
        motion=whole and motion_holds(request, paths, extents),
        identity=reading.steady,
        physics=roughness(reading),
    )


def roughness(reading: WorldReading) -> float:
    """The `physics` of WorldCheck: median over five-frame windows of the RMS distance from the best parabola."""
    powers = np.vander(np.arange(5.0), 3)
    residual = np.eye(5) - powers @ np.linalg.pinv(powers)
    values: list[float] = []
    for o in reading.objects:
        if len(o.position) < 5:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(o.position * (64 / o.side), 5, axis=0)
        squares = ((windows @ residual.T) ** 2).sum((1, 2)) / 2  # two degrees of freedom per axis are left
        values += np.sqrt(squares[np.isfinite(squares)]).tolist()
    return float(np.median(values)) if values else float("nan")


@dataclass(frozen=True)
class Spot:
    """One object in one frame: colour, covered area and centre in pixels, fourth moment (0 a disk, 1 a square)."""

    time: int
    colour: str
    area: float
    x: float
    y: float
    squareness: float

    @property
    def shape(self) -> str:
        """What it looks like in this frame alone."""
        return "box" if self.squareness > _BOX_MOMENT * 60 else "ball"


def _spots(frames: np.ndarray, start: int) -> Iterator[Spot]:
    """The objects in each of a few frames."""
    chroma = frames.astype(np.float32) @ _CHROMA
    label, coverage = _hues(_smooth(chroma))
    # Eroding leaves nothing of the thin line where two colours that touch blend into a third.
    core = _eroded(np.where(coverage > _CORE, label + 1, 0))
    ids, count = _components(core)
    if count == 0:
        return
    sure = np.nonzero(ids)
    colour_of = np.zeros(count + 1, np.int64)
    colour_of[ids[sure]] = core[sure] - 1
    own = (chroma[sure] * _HUES[colour_of[ids[sure]]]).sum(-1)
    strength = np.maximum(np.bincount(ids[sure], own) / np.maximum(np.bincount(ids[sure]), 1), 1.0)
    # A blend of two that touch may have the hue of a third colour: free for either where no such object is there.
    shows = np.zeros((len(frames), len(_NAMES)), bool)
    shows[sure[0], core[sure] - 1] = True
    blend = (coverage < 0.25) | ~np.take_along_axis(shows, label.reshape(len(frames), -1), 1).reshape(label.shape)
    ids = _grown(ids, colour_of, label, blend)
    t, y, x = np.nonzero(ids)
    n = ids[t, y, x]
    weight = (chroma[t, y, x] * _HUES[colour_of[n]]).sum(-1) / strength[n]
    weight = np.clip((weight - _FAINT) / (1 - _FAINT), 0.0, 1.0).astype(np.float64)
    total = np.maximum(np.bincount(n, weight, count + 1), 1e-9)
    cx = np.bincount(n, weight * (x + 0.5), count + 1) / total
    cy = np.bincount(n, weight * (y + 0.5), count + 1) / total
    z4 = ((x + 0.5 - cx[n]) + 1j * (y + 0.5 - cy[n])) ** 4 * weight
    moment = np.abs(np.bincount(n, z4.real, count + 1) + 1j * np.bincount(n, z4.imag, count + 1)) / total**3
    time = np.zeros(count + 1, np.int64)
    time[n] = t
    for i in range(1, count + 1):
        name = _NAMES[colour_of[i]]
        yield Spot(start + int(time[i]), name, float(total[i]), float(cx[i]), float(cy[i]), float(moment[i] * 60))


def _hues(chroma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The palette colour nearest in hue, and how much of its chroma is there, of each pixel of (T, H, W, 2)."""
    label, coverage = np.zeros(chroma.shape[:3], np.int64), np.zeros(chroma.shape[:3], np.float32)
    coloured = np.nonzero(np.square(chroma).sum(-1) > (_FAINT * _STRENGTH.min()) ** 2)  # most of a frame is grey
    projections = chroma[coloured] @ _HUES.T
    nearest = projections.argmax(-1)
    label[coloured] = nearest
    coverage[coloured] = projections[np.arange(len(nearest)), nearest] / _STRENGTH[nearest]
    return label, coverage


def _smooth(chroma: np.ndarray) -> np.ndarray:
    """Binomial 3 x 3 smoothing of (T, H, W, 2), against noise in the hue; edges repeat."""
    p = np.pad(chroma, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    p = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    return (p[:, :, :-2] + 2 * p[:, :, 1:-1] + p[:, :, 2:]) / 16


def _eroded(label: np.ndarray) -> np.ndarray:
    """Keep the pixels of (T, H, W) whose four neighbours have the same label; the frame's edge counts as same."""
    p = np.pad(label, ((0, 0), (1, 1), (1, 1)), mode="edge")
    same = (p[:, :-2, 1:-1] == label) & (p[:, 2:, 1:-1] == label)
    same &= (p[:, 1:-1, :-2] == label) & (p[:, 1:-1, 2:] == label)
    return np.where(same, label, 0)


def _components(label: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the 4-connected areas of equal positive label in each frame of (T, H, W), from 1; 0 elsewhere.

    Runs of pixels along a row are joined with the runs of the same label that they touch in the row above.
    """
    frames, height, width = label.shape
    flat = np.pad(label, ((0, 0), (0, 0), (1, 1))).reshape(-1)
    starts = np.flatnonzero((flat[1:] != flat[:-1]) & (flat[1:] > 0)) + 1
    stops = np.flatnonzero((flat[1:] != flat[:-1]) & (flat[:-1] > 0)) + 1
    parent = np.arange(len(starts))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    stride = width + 2
    above = np.searchsorted(stops, starts - stride, side="right")  # the first run that may touch from above
    for i, first in enumerate(above.tolist()):
        if (starts[i] // stride) % height == 0:
            continue
        j = first
        while starts[j] < stops[i] - stride:
            if flat[starts[j]] == flat[starts[i]]:
                a, b = root(i), root(j)
                parent[max(a, b)] = min(a, b)
            j += 1
    roots = np.array([root(i) for i in range(len(starts))], np.int64)
    kept, number = np.unique(roots, return_inverse=True)
    ids = np.zeros(len(flat) + 1, np.int64)
    np.add.at(ids, starts, number + 1)
    np.add.at(ids, stops, -(number + 1))
    return ids.cumsum()[:-1].reshape(frames, height, stride)[:, :, 1:-1], len(kept)


def _grown(ids: np.ndarray, colour_of: np.ndarray, label: np.ndarray, blend: np.ndarray) -> np.ndarray:
    """Let each component take its rim back: pixels of its own hue, or of none that is there (`blend`)."""
    frames, height, width = ids.shape
    around = ((0, 0), (1, 1), (1, 1))
    flat = np.pad(ids, around).reshape(-1)
    hue, free = np.pad(label, around, constant_values=-1).reshape(-1), np.pad(blend, around).reshape(-1)
    stride = width + 2
    edge = np.flatnonzero(flat)
    for _ in range(_GROWTH):
        new = []
        for step in (-1, -stride, stride, 1, -stride - 1, 1 - stride, stride - 1, stride + 1):
            to, of = edge + step, flat[edge]
            keep = (flat[to] == 0) & ((colour_of[of] == hue[to]) | free[to])
            flat[to[keep]] = of[keep]
            new.append(to[keep])
        edge = np.concatenate(new)
    return flat.reshape(frames, height + 2, stride)[:, 1:-1, 1:-1]


def _real(spots: list[Spot], frames: int, side: int) -> list[Spot]:
    """Drop specks: smaller than any object of the world, or than a third of what this colour usually shows."""
    least = 12.0 * (side / 64) ** 2
    spots = [spot for spot in spots if spot.area >= least]
    if not spots:
        return []
    largest = np.zeros(frames)
    for spot in spots:
        largest[spot.time] = max(largest[spot.time], spot.area)
    usual = float(np.median(largest[largest > 0]))
    return [spot for spot in spots if spot.area >= usual / 3]


def _tracks(spots: list[Spot], count: int) -> list[list[Spot]]:
    """Follow `count` objects of one colour: in each frame the closest pairs of track and spot go together."""
    by_time: dict[int, list[Spot]] = {}
    for spot in spots:
        by_time.setdefault(spot.time, []).append(spot)
    tracks: list[list[Spot]] = []
    for _, now in sorted(by_time.items()):
        ends = [track[-1] for track in tracks]
        pairs = [((e.x - s.x) ** 2 + (e.y - s.y) ** 2, i, j) for i, e in enumerate(ends) for j, s in enumerate(now)]
        taken_tracks, taken = set[int](), set[int]()
        for _, i, j in sorted(pairs):
            if i not in taken_tracks and j not in taken:
                tracks[i].append(now[j])
                taken_tracks.add(i)
                taken.add(j)
        tracks += [[spot] for j, spot in enumerate(now) if j not in taken][: count - len(tracks)]
    return tracks


def _follow(track: list[Spot], frames: int, side: int) -> ReadObject:
    position = np.full((frames, 2), np.nan)
    area, squareness = np.full(frames, np.nan), np.full(frames, np.nan)
    for spot in track:
        position[spot.time] = spot.x, spot.y
        area[spot.time], squareness[spot.time] = spot.area, spot.squareness
    shape = "box" if float(np.nanmedian(squareness)) > _BOX_MOMENT * 60 else "ball"
    return ReadObject(track[0].colour, shape, position, area, squareness, side)
