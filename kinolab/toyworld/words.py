"""What a clip of the toy world promises: its vocabulary, its captions, and the grammar that reads them back.

A caption is built from a `WorldRequest` by one of several phrasings; `parse_caption` turns any such sentence, or a
person's own one in the same words, into the request again. The request is what `kinolab.toyworld.reader` checks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from kinolab.errors import InputError

# Hues at least 25 degrees apart, so that they stay apart after blur, chroma subsampling and a lossy autoencoder;
# the background and the floor are near grey, so that an object's anti-aliased rim keeps the object's hue.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (216, 48, 62),
    "orange": (243, 132, 36),
    "yellow": (240, 214, 44),
    "green": (66, 172, 84),
    "cyan": (58, 196, 208),
    "blue": (52, 104, 222),
    "purple": (132, 76, 196),
    "pink": (240, 112, 186),
}
SHAPES = ("ball", "box")
CLASSES = ("fall", "throw", "bounce", "collide", "ramp", "float")
DIRECTIONS = ("left", "right", "up", "down")
# The directions a scenario can be asked in, and the numbers of objects it is played by.
SCENARIO_DIRECTIONS: dict[str, tuple[str | None, ...]] = {
    "fall": ("down",),
    "throw": ("left", "right"),
    "bounce": ("down", "left", "right"),
    "collide": ("left", "right", None),
    "ramp": ("left", "right"),
    "float": ("left", "right", "up", "down"),
}
SCENARIO_COUNTS: dict[str, tuple[int, ...]] = {
    "fall": (1, 2, 3),
    "throw": (1, 2),
    "bounce": (1, 2),
    "collide": (2,),
    "ramp": (1, 2),
    "float": (1, 2, 3),
}


@dataclass(frozen=True)
class WorldRequest:
    """What a clip should show.

    `objects`: (colour, shape) of every object, the one that acts first in a collision first.
    `scenario`: one of CLASSES, or None when only the objects are promised (a clip too short to show an event).
    `direction`: "left", "right", "up", "down" or None. It is the way that every object moves (in "collide" the first
    object); "bounce" goes this way until it hits ("down" = the floor, "left" and "right" = a wall) and comes back.
    """

    objects: tuple[tuple[str, str], ...]
    scenario: str | None = None
    direction: str | None = None


def list_objects(objects: tuple[tuple[str, str], ...], grouped: bool) -> str:
    """The objects in words: "a red ball and a blue ball"; or, `grouped` where all have one shape, "two balls, one red
    and one blue,".
    """
    if grouped and len(objects) > 1 and len({shape for _, shape in objects}) == 1:
        shape = {"ball": "balls", "box": "boxes"}[objects[0][1]]
        parts = [f"one {colour}" for colour, _ in objects]
        return f"{'two' if len(objects) == 2 else 'three'} {shape}, {_join(parts)},"
    return _join([_a(f"{colour} {shape}") for colour, shape in objects])


def describe(request: WorldRequest, rng: np.random.Generator) -> str:
    """One of the request's phrasings, drawn with `rng`."""
    grouped = bool(rng.integers(2)) and request.scenario != "collide"
    phrases = phrasings(request, grouped)
    return phrases[int(rng.integers(len(phrases)))]


def phrasings(request: WorldRequest, grouped: bool = False) -> list[str]:
    """Every phrasing of a request; `grouped` counts objects of one shape ("two balls, one red and one blue, ...")."""
    objects, way = request.objects, request.direction
    who = list_objects(objects, grouped)
    s, are = ("s", "is") if len(objects) == 1 else ("", "are")
    shapes = {shape for _, shape in objects}
    if request.scenario is None:
        return [who.rstrip(",")]
    if request.scenario == "fall":
        return [f"{who} fall{s}", f"{who} fall{s} to the floor", f"{who} drop{s} to the floor", f"{who} {are} falling"]
    if request.scenario == "throw":
        return [
            f"{who} {are} thrown to the {way}",
            f"someone throws {who} to the {way}",
            f"{who} fl{'ies' if s else 'y'} through the air to the {way}",
        ]
    if request.scenario == "bounce" and way == "down":
        return [f"{who} bounce{s} on the floor", f"{who} fall{s} and bounce{s}", f"{who} {are} bouncing on the floor"]
    if request.scenario == "bounce":
        hit = f"{who} hit{s} the {way} wall and bounce{s} back"
        return [f"{who} bounce{s} off the {way} wall", hit, f"{who} {are} bouncing off the {way} wall"]
    if request.scenario == "collide":
        a, b = (list_objects((o,), False) for o in objects)
        if way is None:
            return [f"{a} and {b} collide", f"{a} and {b} bump into each other", f"{a} collides with {b}"]
        roll = "rolls" if objects[0][1] == "ball" else "slides"
        behind = "right" if way == "left" else "left"
        first = f"{a} {roll} to the {way} and hits {b}"
        return [first, f"{a} moving to the {way} hits {b}", f"{a} hits {b} from the {behind}"]
    if request.scenario == "ramp":
        verb = {"ball": "roll", "box": "slide"}[objects[0][1]] if len(shapes) == 1 else "go"
        verb += s
        return [
            f"{who} {verb} down a ramp to the {way}",
            f"{who} move{s} down a ramp to the {way}",
            f"on a ramp, {who} {verb} down to the {way}",
        ]
    there = {"left": "to the left", "right": "to the right"}.get(way or "", str(way))
    return [f"{who} float{s} {there}", f"{who} drift{s} {there} without gravity", f"{who} {are} floating {there}"]


def parse_caption(caption: str) -> WorldRequest:
    """The request that a sentence of the toy world's grammar makes.

    Raises:
        InputError: for a word, a scenario or a combination outside the grammar; says what is understood.
    """
    text = re.sub(r"[.!]+$", "", caption.lower().strip())
    text = re.sub(r"\bfrom the (left|right)\b", lambda m: "to the " + ("right" if m[1] == "left" else "left"), text)
    words = re.findall(r"[a-z0-9]+", text)
    unknown = [word for word in words if word not in _VOCABULARY]
    if unknown:
        raise _not_understood(caption, f"the word {unknown[0]!r}")
    objects = _parse_objects(caption, words)
    scenario = _parse_scenario(caption, words)
    ways = {_WAYS[word] for word in words if word in _WAYS}
    if scenario == "ramp":
        ways.discard("down")  # "down a ramp" is no direction of its own
    if len(ways) > 1:
        raise _not_understood(caption, f"two directions ({', '.join(sorted(ways))})")
    direction = next(iter(ways), None)
    if scenario is None:
        if direction is not None:
            raise _not_understood(caption, "a direction without what happens")
        return WorldRequest(objects)
    if direction is None and scenario in ("fall", "bounce"):
        direction = "down"
    allowed = SCENARIO_DIRECTIONS[scenario]
    if direction not in allowed and not (direction is None and scenario in ("throw", "ramp", "float")):
        raise _not_understood(caption, f"{scenario!r} {direction or 'without a direction'}")
    if len(objects) not in SCENARIO_COUNTS[scenario]:
        raise _not_understood(caption, f"{scenario!r} with {len(objects)} object{'s' * (len(objects) > 1)}")
    return WorldRequest(objects, scenario, direction)


# The order matters where a sentence holds two of them: "falls and bounces" is a bounce, "rolls ... and hits" a
# collision, "hits the wall and bounces back" a bounce.
_SCENARIO_WORDS: dict[str, tuple[str, ...]] = {
    "bounce": ("bounce", "bounces", "bouncing"),
    "collide": ("collide", "collides", "bump", "bumps", "hit", "hits", "hitting", "colliding"),
    "ramp": ("ramp", "slope"),
    "throw": ("thrown", "throws", "throw", "flies", "fly", "flying"),
    "float": ("float", "floats", "floating", "drift", "drifts", "drifting"),
    "fall": ("fall", "falls", "falling", "drop", "drops", "dropping"),
}
_WAYS = {"left": "left", "right": "right", "up": "up", "upwards": "up", "down": "down", "downwards": "down"}
_NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3}
_SHAPE_WORDS = {"ball": "ball", "balls": "ball", "box": "box", "boxes": "box"}
_MOVING = ("roll", "rolls", "rolling", "slide", "slides", "sliding", "go", "goes", "going", "move", "moves", "moving")
_FILLERS = {
    "and", "the", "to", "is", "are", "on", "off", "in", "with", "without", "gravity", "no", "someone", "through", "air",
    "floor", "wall", "back", "into", "each", "other", "from", "it", "of", "at", "then", "while",
}  # fmt: skip
_VOCABULARY = {
    *COLOURS, *_SHAPE_WORDS, *_NUMBERS, *_WAYS, *_FILLERS, *_MOVING,
    *(w for ws in _SCENARIO_WORDS.values() for w in ws),
}  # fmt: skip


def _parse_objects(caption: str, words: list[str]) -> tuple[tuple[str, str], ...]:
    """The objects named one by one ("a red ball") or as a group ("two balls, one red and one blue")."""
    objects: list[tuple[str, str]] = []
    group: tuple[str, int] | None = None
    for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False):
        if word in COLOURS and after in ("ball", "box"):
            objects.append((word, after))
        elif word in COLOURS and group is not None:
            objects.append((word, group[0]))
        elif word in COLOURS:
            raise _not_understood(caption, f"{word!r} without a ball or a box")
        elif word in _SHAPE_WORDS and before not in COLOURS:
            if group is not None or before not in ("two", "three"):
                raise _not_understood(caption, f"{word!r} without a colour")
            group = (_SHAPE_WORDS[word], _NUMBERS[before])
    if group is not None and len(objects) != group[1]:
        raise _not_understood(caption, f"{group[1]} objects but {len(objects)} colours")
    if not 1 <= len(objects) <= 3:
        raise _not_understood(caption, f"{len(objects)} objects")
    if len({colour for colour, _ in objects}) < len(objects):
        raise _not_understood(caption, "two objects of one colour")
    return tuple(objects)


def _parse_scenario(caption: str, words: list[str]) -> str | None:
    for scenario, keys in _SCENARIO_WORDS.items():
        if any(word in keys for word in words):
            return scenario
    if any(word in _MOVING for word in words):
        raise _not_understood(caption, "what happens")
    return None


def _not_understood(caption: str, what: str) -> InputError:
    return InputError(
        f"{caption!r}: {what} is outside the toy world. Understood: one to three objects of different colours "
        f"({', '.join(COLOURS)}), each a ball or a box, that fall, are thrown (left or right), bounce on the floor or "
        "off the left or right wall, collide (two objects), roll or slide down a ramp (left or right), or float "
        "(left, right, up or down), for example 'a red ball is thrown to the left'"
    )


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
