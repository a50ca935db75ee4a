"""The toy world's scenes: where objects start, how fast, and what physics makes of it.

Units: the frame is 64 wide and 64 high whatever its size in pixels (x to the right, y down), time is in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

FRAME = 64.0
FLOOR = 55.0
GRAVITY = 21.0
_SUBSTEP = 1 / 64
_WALL = 20.0


@dataclass(frozen=True)
class Body:
    """One object at the start: `extent` is a ball's radius or half a box's side; `spin` in radians per second."""

    shape: str
    extent: float
    x: float
    y: float
    vx: float = 0.0
    vy: float = 0.0
    angle: float = 0.0
    spin: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Everything that physics needs. `ramp`: corners of the wedge; `friction` is that of every pair in contact."""

    bodies: tuple[Body, ...]
    gravity: bool
    bounce: float
    friction: float
    ramp: tuple[tuple[float, float], ...] = field(default=())


@dataclass(frozen=True)
class Trajectory:
    """The motion at every frame: position and velocity (per second) (N, T, 2), angle (N, T)."""

    position: np.ndarray
    velocity: np.ndarray
    angle: np.ndarray


@dataclass(frozen=True)
class Cast:
    """The objects of a scene before they have a place, and the direction they are asked to take."""

    shapes: tuple[str, ...]
    direction: str | None
    seconds: float

    def extents(self, rng: np.random.Generator) -> list[float]:
        """Balls of radius 5.5 to 7.5; boxes of about the same area; a little smaller where there are three."""
        scale = 0.88 if len(self.shapes) == 3 else 1.0
        return [scale * rng.uniform(5.5, 7.5) * (1.0 if shape == "ball" else 0.9) for shape in self.shapes]


def plan_fall(cast: Cast, rng: np.random.Generator) -> Scene:
    """Objects side by side, high up, fall and stay down."""
    extents = cast.extents(rng)
    xs = _lanes(extents, 1.5, rng)
    bodies = [
        Body(s, e, x, rng.uniform(9, 26), rng.uniform(-1.5, 1.5), rng.uniform(0, 6), *_turn(s, 1.0, rng))
        for s, e, x in zip(cast.shapes, extents, xs, strict=True)
    ]
    return Scene(tuple(bodies), gravity=True, bounce=0.2, friction=0.3)


def plan_throw(cast: Cast, rng: np.random.Generator) -> Scene:
    """Objects start at one side and fly an arc to the other, one behind and above the other when they are two."""
    extents, bodies = cast.extents(rng), list[Body]()
    x, speed = rng.uniform(8, 14), rng.uniform(13, 22)
    for i, (s, e) in enumerate(zip(cast.shapes, extents, strict=True)):
        y = rng.uniform(30, 44) if i == 0 else bodies[0].y + rng.choice([-1, 1]) * rng.uniform(12, 18)
        vx = speed + (i > 0) * rng.uniform(-2, 6)
        bodies.append(Body(s, e, x, float(y), vx, rng.uniform(-19, -10), *_turn(s, 2.0, rng)))
        x += rng.uniform(-4, 14)
    return _mirror(Scene(tuple(bodies), gravity=True, bounce=0.4, friction=0.3), cast.direction == "left")


def plan_bounce(cast: Cast, rng: np.random.Generator) -> Scene:
    """Springy objects fall on the floor and rise again, or, without gravity, hit a wall and come back."""
    extents = cast.extents(rng)
    lanes = _lanes(extents, 1.5, rng)
    bodies = []
    for s, e, lane in zip(cast.shapes, extents, lanes, strict=True):
        if cast.direction == "down":
            bodies.append(Body(s, e, lane, rng.uniform(10, 30), rng.uniform(-3, 3), rng.uniform(0, 10)))
        else:
            at, speed = rng.uniform(18, 32), rng.uniform(18, 30)
            bodies.append(Body(s, e, at, lane, speed, rng.uniform(-1.5, 1.5), *_turn(s, 0.5, rng)))
    gravity = cast.direction == "down"
    return _mirror(Scene(tuple(bodies), gravity, bounce=0.85, friction=0.15), cast.direction == "left")


def plan_collide(cast: Cast, rng: np.random.Generator) -> Scene:
    """One object runs along the floor into another at rest; or, without a direction, two meet in free space."""
    a, b = cast.shapes
    ea, eb = cast.extents(rng)
    if cast.direction is None:
        y, offset = rng.uniform(20, 44), rng.uniform(-3, 3)
        left = Body(a, ea, rng.uniform(9, 16), y, rng.uniform(13, 22), 0.0, *_turn(a, 0.5, rng))
        right = Body(b, eb, rng.uniform(48, 55), y + offset, -rng.uniform(13, 22), 0.0, *_turn(b, 0.5, rng))
        return _mirror(Scene((left, right), gravity=False, bounce=0.8, friction=0.1), bool(rng.integers(2)))
    speed = rng.uniform(16, 26)
    first = Body(a, ea, rng.uniform(8, 15), FLOOR - ea, speed, 0.0, 0.0, speed / ea if a == "ball" else 0.0)
    second = Body(b, eb, rng.uniform(32, 42), FLOOR - eb)
    return _mirror(Scene((first, second), gravity=True, bounce=0.5, friction=0.12), cast.direction == "left")


def plan_ramp(cast: Cast, rng: np.random.Generator) -> Scene:
    """A wedge at one side; objects roll (balls) or slide (boxes) down along it, one after the other."""
    extents = cast.extents(rng)
    height, foot = rng.uniform(20, 28), rng.uniform(42, 54)
    ramp = ((0.0, FLOOR - height), (foot, FLOOR), (0.0, FLOOR))
    slope = np.arctan2(height, foot)
    along, normal = np.array([np.cos(slope), np.sin(slope)]), np.array([np.sin(slope), -np.cos(slope)])
    s, speed, bodies = extents[-1] + rng.uniform(2.5, 6), rng.uniform(3, 9), []
    for shape, e in reversed(list(zip(cast.shapes, extents, strict=True))):
        x, y = np.array([0.0, FLOOR - height]) + along * s + normal * (e + 0.02)
        vx, vy = along * speed
        box = shape == "box"
        bodies.append(Body(shape, e, x, y, vx, vy, slope if box else 0.0, 0.0 if box else speed / e))
        s += 2 * max(extents) * 1.15 + rng.uniform(1, 3)
        speed += rng.uniform(1, 3)
    scene = Scene(tuple(reversed(bodies)), gravity=True, bounce=0.1, friction=0.15, ramp=ramp)
    return _mirror(scene, cast.direction == "left")


def plan_float(cast: Cast, rng: np.random.Generator) -> Scene:
    """Without gravity: objects in parallel lanes drift from one side to the other."""
    extents = cast.extents(rng)
    bodies = []
    for s, e, lane in zip(cast.shapes, extents, _lanes(extents, 1.5, rng), strict=True):
        start = rng.uniform(e + 2, 24)
        goal = rng.uniform(start + 14, FRAME - e - 1)
        speed, drift = (goal - start) / max(cast.seconds, 1.5), rng.uniform(-0.8, 0.8)
        turn = _turn(s, 0.7, rng)
        if cast.direction in ("left", "right"):
            bodies.append(Body(s, e, start, lane, speed, drift, *turn))
        else:
            up = cast.direction == "up"
            bodies.append(Body(s, e, lane, FRAME - start if up else start, drift, -speed if up else speed, *turn))
    return _mirror(Scene(tuple(bodies), gravity=False, bounce=0.9, friction=0.0), cast.direction == "left")


PLANS: dict[str, Callable[[Cast, np.random.Generator], Scene]] = {
    "fall": plan_fall,
    "throw": plan_throw,
    "bounce": plan_bounce,
    "collide": plan_collide,
    "ramp": plan_ramp,
    "float": plan_float,
}


def simulate(scene: Scene, frames: int, fps: float) -> Trajectory:
    """Run the physics for `frames` frames, in substeps of about 1/64 s whatever the frame rate."""
    import pymunk

    space = pymunk.Space()
    space.gravity = (0.0, GRAVITY if scene.gravity else 0.0)
    space.collision_slop = 0.01
    space.iterations = 15
    _add_walls(pymunk, space, scene)
    bodies = [_add_body(pymunk, space, body, scene) for body in scene.bodies]
    substeps = max(1, int(np.ceil(1 / (fps * _SUBSTEP) - 1e-9)))
    dt = 1.0 / (fps * substeps)
    states = np.empty((frames, len(bodies), 5))
    for t in range(frames):
        for n, body in enumerate(bodies):
            states[t, n] = *body.position, *body.velocity, body.angle
        for _ in range(substeps if t + 1 < frames else 0):
            space.step(dt)
    states = states.transpose(1, 0, 2)
    return Trajectory(states[..., 0:2], states[..., 2:4], states[..., 4])


def inside(scene: Scene, path: Trajectory) -> bool:
    """Whether every object is whole inside the frame, and none inside another or in the floor, at every frame."""
    bottom = FLOOR if scene.gravity else FRAME
    reach = np.array([[_reach(b, a) for a in angles] for b, angles in zip(scene.bodies, path.angle, strict=True)])
    low, high = path.position - reach[..., None], path.position + reach[..., None]
    if low.min() < -0.15 or high[..., 0].max() > FRAME + 0.15 or high[..., 1].max() > bottom + 0.15:
        return False
    for i, a in enumerate(scene.bodies):
        for j in range(i):
            gap = np.linalg.norm(path.position[i] - path.position[j], axis=1).min()
            if gap < 0.97 * (a.extent + scene.bodies[j].extent):
                return False
    return True


def _reach(body: Body, angle: float) -> float:
    return body.extent * (1.0 if body.shape == "ball" else abs(np.cos(angle)) + abs(np.sin(angle)))


def _lanes(extents: list[float], gap: float, rng: np.random.Generator) -> list[float]:
    """Centres, in random order of objects, of lanes side by side that leave at least `gap` between objects.

    The free room is shared out at random. A box may turn, so its lane is as wide as its diagonal.
    """
    wide = [e * 1.3 for e in extents]
    room = (FRAME - 4) - 2 * sum(wide) - gap * (len(wide) - 1)
    cuts = np.diff(np.sort(rng.uniform(0, max(room, 0.0), len(wide))), prepend=0.0)
    centres, at = [0.0] * len(wide), 2.0
    for place, n in enumerate(rng.permutation(len(wide))):
        at += float(cuts[place]) + wide[n]
        centres[n] = at
        at += wide[n] + gap
    return centres


def _turn(shape: str, most: float, rng: np.random.Generator) -> tuple[float, float]:
    """The angle and spin that an object starts with; a ball's are drawn too, so that scenes stay comparable."""
    angle, spin = rng.uniform(-0.7, 0.7), rng.uniform(-most, most)
    return (angle, spin) if shape == "box" else (0.0, 0.0)


def _mirror(scene: Scene, flip: bool) -> Scene:
    """The scene with left and right exchanged."""
    if not flip:
        return scene
    bodies = tuple(Body(b.shape, b.extent, FRAME - b.x, b.y, -b.vx, b.vy, -b.angle, -b.spin) for b in scene.bodies)
    ramp = tuple((FRAME - x, y) for x, y in scene.ramp)
    return Scene(bodies, scene.gravity, scene.bounce, scene.friction, ramp)


def _add_walls(pymunk: Any, space: Any, scene: Scene) -> None:
    bottom, w, f = (FLOOR if scene.gravity else FRAME), _WALL, FRAME
    ends = [((-w, -w), (-w, f + w)), ((f + w, -w), (f + w, f + w)), ((-w, -w), (f + w, -w))]
    ends.append(((-w, bottom + w), (f + w, bottom + w)))
    shapes = [pymunk.Segment(space.static_body, a, b, w) for a, b in ends]
    if scene.ramp:
        shapes.append(pymunk.Poly(space.static_body, list(scene.ramp)))
    for shape in shapes:
        # pymunk multiplies the two partners' values.
        shape.elasticity, shape.friction = float(np.sqrt(scene.bounce)), float(np.sqrt(scene.friction))
    space.add(*shapes)


def _add_body(pymunk: Any, space: Any, start: Body, scene: Scene) -> Any:
    e = start.extent
    mass = (np.pi if start.shape == "ball" else 4.0) * e * e / 100.0
    if start.shape == "ball":
        body = pymunk.Body(mass, pymunk.moment_for_circle(mass, 0.0, e))
        shape = pymunk.Circle(body, e)
    else:
        body = pymunk.Body(mass, pymunk.moment_for_box(mass, (2 * e, 2 * e)))
        shape = pymunk.Poly.create_box(body, (2 * e, 2 * e))
    body.position, body.velocity = (float(start.x), float(start.y)), (float(start.vx), float(start.vy))
    body.angle, body.angular_velocity = float(start.angle), float(start.spin)
    shape.elasticity, shape.friction = float(np.sqrt(scene.bounce)), float(np.sqrt(scene.friction))
    space.add(body, shape)
    return body
