"""The toy world: deterministic physics clips with captions, class labels and the exact state of every object.

`make_clip(config, seed)` draws what happens (scenario, objects, direction, phrasing), then kinematics until the
physics (pymunk) truly shows what the caption promises, then the frames (aggdraw, anti-aliased). Balls and boxes live
in one plane and never overlap, so nothing is occluded. The same config and seed give the same bytes in any process.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from kinolab.config import Config
from kinolab.errors import InputError
from kinolab.runtime.files import write_text
from kinolab.runtime.reading import read_json
from kinolab.runtime.summed import summed
from kinolab.toyworld.motion import GENERATOR_MARGIN, direction_holds, motion_holds
from kinolab.toyworld.scenes import FLOOR, FRAME, PLANS, Cast, Scene, Trajectory, inside, simulate
from kinolab.toyworld.words import (
    CLASSES,
    COLOURS,
    SCENARIO_COUNTS,
    SCENARIO_DIRECTIONS,
    SHAPES,
    WorldRequest,
    describe,
    parse_caption,
)

__all__ = [
    "CLASSES", "COLOURS", "SHAPES", "WorldClip", "WorldConfig", "WorldObject", "WorldRequest", "iter_clips",
    "load_state", "make_clip", "parse_caption", "save_state",
]  # fmt: skip

BACKGROUND = (238, 239, 241)
GROUND = (84, 87, 92)
RAMP = (128, 131, 136)
# A clip shorter than this cannot show an event to its end: its caption then names the objects only.
EVENT_SECONDS = 1.5
_TRIES = 400


class WorldConfig(Config):
    """What clips of the toy world look like."""

    size: int = Field(default=64, ge=32, le=256)
    """Width and height in pixels. The same seed shows the same motion at every size."""
    frames: int = Field(default=17, ge=1)
    """Frames per clip."""
    fps: float = Field(default=8.0, gt=0, le=240)
    """Frames per second; the physics runs in seconds, so a higher rate shows the same motion more finely."""
    min_objects: int = Field(default=1, ge=1, le=3)
    """Fewest objects in a clip."""
    max_objects: int = Field(default=3, ge=1, le=3)
    """Most objects in a clip."""
    scenarios: dict[str, float] = Field(default=dict.fromkeys(CLASSES, 1.0))
    """Relative frequency of each scenario; those not named do not occur."""
    colours: tuple[str, ...] = tuple(COLOURS)
    """Colours to draw from; the objects of one clip have different ones."""
    shapes: tuple[str, ...] = SHAPES
    """Shapes to draw from."""

    @field_validator("scenarios")
    @classmethod
    def _known_scenarios(cls, value: dict[str, float]) -> dict[str, float]:
        unknown = [name for name in value if name not in CLASSES]
        if unknown:
            raise ValueError(f"unknown scenario {unknown[0]!r}; expected some of {', '.join(CLASSES)}")
        if any(weight < 0 for weight in value.values()) or not sum(value.values()) > 0:
            raise ValueError("expected weights of zero or more, at least one of them above zero")
        return value

    @model_validator(mode="after")
    def _possible(self) -> WorldConfig:
        for name, values, known in (("colours", self.colours, COLOURS), ("shapes", self.shapes, SHAPES)):
            if not values or not set(values) <= set(known) or len(set(values)) < len(values):
                raise ValueError(f"{name}: expected different ones of {', '.join(known)}, got {', '.join(values)}")
        if self.min_objects > self.max_objects:
            raise ValueError(f"min_objects {self.min_objects} is more than max_objects {self.max_objects}")
        if self.max_objects > len(self.colours):
            raise ValueError(f"max_objects {self.max_objects} needs as many colours, got {len(self.colours)}")
        if not any(weight > 0 and self.counts(name) for name, weight in self.scenarios.items()):
            raise ValueError(f"none of the scenarios has {self.min_objects} to {self.max_objects} objects")
        return self

    def counts(self, scenario: str) -> tuple[int, ...]:
        """The numbers of objects that a scenario may have here."""
        return tuple(n for n in SCENARIO_COUNTS[scenario] if self.min_objects <= n <= self.max_objects)


@dataclass(frozen=True, eq=False)
class WorldObject:
    """The exact state of one object. Pixel j covers the interval [j, j + 1], so its centre is at j + 0.5.

    `radius`: of a ball, or half the side of a box, in pixels. `position`: (T, 2) centre (x, y) in pixels, y down.
    `velocity`: (T, 2) pixels per frame at that instant. `angle`: (T,) radians. `visible`: (T,) visible fraction of
    the object's area; 1 throughout, as objects share a plane and walls keep them inside the frame.
    """

    colour: str
    shape: str
    radius: float
    position: np.ndarray
    velocity: np.ndarray
    angle: np.ndarray
    visible: np.ndarray


@dataclass(frozen=True, eq=False)
class WorldClip:
    """A clip and the truth about it. `frames`: (T, H, W, 3) uint8; `label`: index into CLASSES."""

    frames: np.ndarray
    fps: float
    caption: str
    label: int
    request: WorldRequest
    state: list[WorldObject]


def make_clip(config: WorldConfig, seed: int) -> WorldClip:
    """The clip of this config and seed, bit for bit the same in every process."""
    return _made(config, seed)


def edited_clip(config: WorldConfig, seed: int, objects: tuple[tuple[str, str], ...]) -> WorldClip:
    """The clip of this config and seed with other looks: the same motion by as many objects (colour, shape).

    Its caption is phrased as the clip's own is. A box has the ball's radius as half its side, and its angle.

    Raises:
        InputError: for another number of objects.
    """
    return _made(config, seed, objects)


def _made(config: WorldConfig, seed: int, looks: tuple[tuple[str, str], ...] | None = None) -> WorldClip:
    """A clip, and with `looks` the same motion by objects of those."""
    rng = np.random.default_rng(seed)
    scenario, request = _draw_request(config, rng)
    words = deepcopy(rng)  # another caption must not draw on what the motion is drawn from
    caption = describe(_promised(config, request), rng)
    scene, path = _find_scene(config, request, rng)
    if looks is not None:
        if len(looks) != len(request.objects):
            raise InputError(f"expected looks of {len(request.objects)} objects, got {len(looks)}")
        request = replace(request, objects=looks)
        caption = describe(_promised(config, request), words)
        bodies = tuple(replace(body, shape=shape) for body, (_, shape) in zip(scene.bodies, looks, strict=True))
        scene = replace(scene, bodies=bodies)
    names = [colour for colour, _ in request.objects]
    return WorldClip(
        frames=draw(scene, path, names, config.size),
        fps=config.fps,
        caption=caption,
        label=CLASSES.index(scenario),
        request=_promised(config, request),
        state=_state(scene, path, names, config),
    )


def _promised(config: WorldConfig, request: WorldRequest) -> WorldRequest:
    """What of a request a clip is long enough to show."""
    return request if _shows_events(config) else WorldRequest(request.objects)


def iter_clips(config: WorldConfig, seeds: range) -> Iterator[WorldClip]:
    """The clips of a range of seeds, one after the other."""
    for seed in seeds:
        yield make_clip(config, seed)


def draw(scene: Scene, path: Trajectory, colours: list[str], size: int) -> np.ndarray:
    """The frames (T, size, size, 3) uint8 of a motion, anti-aliased."""
    import aggdraw

    scale = size / FRAME
    brushes = [aggdraw.Brush(COLOURS[name]) for name in colours]
    ground, ramp = aggdraw.Brush(GROUND), aggdraw.Brush(RAMP)
    inset = 0.25  # aggdraw grows every polygon by a quarter of a pixel on each side
    circle = np.linspace(0, 2 * np.pi, max(48, size // 2), endpoint=False)
    unit = {"ball": np.stack([np.cos(circle), np.sin(circle)], 1)}
    unit["box"] = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    frames = np.empty((path.position.shape[1], size, size, 3), np.uint8)
    for t in range(len(frames)):
        canvas = aggdraw.Draw("RGB", (size, size), BACKGROUND)
        if scene.ramp:
            canvas.polygon([scale * v for corner in scene.ramp for v in corner], ramp)
        if scene.gravity:
            top = FLOOR * scale + inset
            canvas.polygon([-2, top, size + 2, top, size + 2, size + 2, -2, size + 2], ground)
        for n, body in enumerate(scene.bodies):
            c, s = np.cos(path.angle[n, t]), np.sin(path.angle[n, t])
            outline = unit[body.shape] * (body.extent * scale - inset) @ np.array([[c, s], [-s, c]])
            canvas.polygon((outline + path.position[n, t] * scale).ravel().tolist(), brushes[n])
        frames[t] = np.frombuffer(canvas.tobytes(), np.uint8).reshape(size, size, 3)
    return frames


def save_state(clip: WorldClip, path: Path | str) -> None:
    """Write a clip's truth (all but its frames) as JSON, atomically."""
    path = Path(path)
    objects = [
        {k: v.round(6).tolist() if isinstance(v, np.ndarray) else v for k, v in vars(o).items()} for o in clip.state
    ]
    height, width = clip.frames.shape[1:3]
    record = {
        "caption": clip.caption, "label": clip.label, "fps": clip.fps, "width": width, "height": height,
        "request": asdict(clip.request), "objects": objects,
    }  # fmt: skip
    write_text(path, summed(record))


def load_state(path: Path | str) -> tuple[WorldRequest, list[WorldObject]]:
    """The request and the objects that `save_state` wrote; raises InputError where the file is not one of its own."""
    try:
        record: dict[str, Any] = read_json(Path(path))
        asked = record["request"]
        request = WorldRequest(
            tuple((colour, shape) for colour, shape in asked["objects"]), asked["scenario"], asked["direction"]
        )
        arrays = ("position", "velocity", "angle", "visible")
        objects = [
            WorldObject(o["colour"], o["shape"], float(o["radius"]), *(np.asarray(o[name], float) for name in arrays))
            for o in record["objects"]
        ]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected a state file of 'kinolab world'") from None
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: not a state file of 'kinolab world'") from None
    return request, objects


def _shows_events(config: WorldConfig) -> bool:
    return (config.frames - 1) / config.fps >= EVENT_SECONDS


def _draw_request(config: WorldConfig, rng: np.random.Generator) -> tuple[str, WorldRequest]:
    """What happens to whom: a scenario, one of its directions and counts, and different colours."""
    names = [name for name in CLASSES if config.scenarios.get(name, 0.0) > 0 and config.counts(name)]
    weights = np.array([config.scenarios[name] for name in names])
    scenario = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    counts, ways = config.counts(scenario), SCENARIO_DIRECTIONS[scenario]
    count, direction = counts[int(rng.integers(len(counts)))], ways[int(rng.integers(len(ways)))]
    colours = rng.permutation(len(config.colours))[:count]
    shapes = rng.integers(len(config.shapes), size=count)
    objects = tuple((config.colours[c], config.shapes[s]) for c, s in zip(colours, shapes, strict=True))
    return scenario, WorldRequest(objects, scenario, direction)


def _find_scene(config: WorldConfig, request: WorldRequest, rng: np.random.Generator) -> tuple[Scene, Trajectory]:
    """Draw starts until the motion shows what was asked (of a very short clip: until nothing leaves the frame)."""
    assert request.scenario is not None
    plan, events = PLANS[request.scenario], _shows_events(config)
    cast = Cast(tuple(shape for _, shape in request.objects), request.direction, (config.frames - 1) / config.fps)
    for _ in range(_TRIES):
        scene = plan(cast, rng)
        path = simulate(scene, config.frames, config.fps)
        if not inside(scene, path):
            continue
        paths, extents = list(path.position / FRAME), [body.extent / FRAME for body in scene.bodies]
        if not events or (
            direction_holds(request, paths, GENERATOR_MARGIN)
            and motion_holds(request, paths, extents, GENERATOR_MARGIN)
        ):
            return scene, path
    raise AssertionError(f"no scene shows {request} in {config.frames} frames at {config.fps} per second")


def _state(scene: Scene, path: Trajectory, colours: list[str], config: WorldConfig) -> list[WorldObject]:
    scale = config.size / FRAME
    return [
        WorldObject(
            colour,
            body.shape,
            body.extent * scale,
            path.position[n] * scale,
            path.velocity[n] * scale / config.fps,
            path.angle[n],
            np.ones(config.frames),
        )
        for n, (colour, body) in enumerate(zip(colours, scene.bodies, strict=True))
    ]
