"""The toy world: the same bytes from the same seed, true states, and captions that mean what the clip shows."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kinolab.config import load_config
from kinolab.errors import InputError
from kinolab.toyworld.clips import (
    CLASSES,
    COLOURS,
    WorldClip,
    WorldConfig,
    WorldRequest,
    load_state,
    make_clip,
    parse_caption,
    save_state,
)
from kinolab.toyworld.scenes import FLOOR, FRAME, GRAVITY, Body, Scene, simulate
from kinolab.toyworld.words import SCENARIO_COUNTS, SCENARIO_DIRECTIONS, phrasings
from tests.closeness import assert_close, assert_small, assert_within


@cache
def clips(count: int = 200) -> tuple[WorldClip, ...]:
    return tuple(make_clip(WorldConfig(), seed) for seed in range(count))


def digest(clip: WorldClip) -> str:
    states = b"".join(o.position.tobytes() + o.velocity.tobytes() + o.angle.tobytes() for o in clip.state)
    return hashlib.sha256(clip.frames.tobytes() + states + clip.caption.encode()).hexdigest()


def only(scenario: str, **fields: Any) -> WorldConfig:
    return WorldConfig(scenarios={scenario: 1.0}, **fields)


def test_a_seed_gives_the_same_bytes_whatever_ran_before() -> None:
    first = digest(make_clip(WorldConfig(), 7))
    for seed in range(5):
        make_clip(WorldConfig(), seed)
    assert digest(make_clip(WorldConfig(), 7)) == first
    assert digest(make_clip(WorldConfig(), 8)) != first


@pytest.mark.slow
def test_a_seed_gives_the_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib; from kinolab.toyworld.clips import WorldConfig, make_clip\n"
        "for seed in (3, 11, 20): print(hashlib.sha256(make_clip(WorldConfig(), seed).frames.tobytes()).hexdigest())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    frames = [make_clip(WorldConfig(), seed).frames for seed in (3, 11, 20)]
    assert out.split() == [hashlib.sha256(f.tobytes()).hexdigest() for f in frames]


@pytest.mark.parametrize("size", [32, 100, 256])
def test_the_same_seed_shows_the_same_motion_at_every_size(size: int) -> None:
    small, other = make_clip(WorldConfig(), 5), make_clip(WorldConfig(size=size), 5)
    assert other.frames.shape == (17, size, size, 3)
    assert other.caption == small.caption
    for a, b in zip(small.state, other.state, strict=True):
        assert_close(b.position, a.position * size / 64, within=1e-12)
        assert_close(b.velocity, a.velocity * size / 64, within=1e-12)
        assert b.radius == pytest.approx(a.radius * size / 64)


@pytest.mark.parametrize("frames", [1, 2, 9, 16, 64])
def test_any_number_of_frames(frames: int) -> None:
    clip = make_clip(WorldConfig(frames=frames), 1)
    assert len(clip.frames) == frames
    assert all(len(o.position) == len(o.velocity) == len(o.angle) == len(o.visible) == frames for o in clip.state)


def test_a_clip_too_short_for_an_event_promises_its_objects_only() -> None:
    clip = make_clip(WorldConfig(frames=5), 2)
    assert clip.request.scenario is None and clip.request.direction is None
    assert parse_caption(clip.caption) == clip.request


def test_objects_are_drawn_where_the_state_says_in_their_colour() -> None:
    for clip in clips(60):
        for o in clip.state:
            x, y = np.floor(o.position).astype(int).T
            assert (clip.frames[np.arange(17), y, x] == COLOURS[o.colour]).all()


def test_the_drawn_area_is_the_true_one() -> None:
    clip = make_clip(only("float", max_objects=1, colours=("blue",), size=128), 4)
    background, blue = clip.frames[0, 0, 0].astype(float), np.array(COLOURS["blue"], float)
    coverage = ((clip.frames - background) @ (blue - background)) / ((blue - background) ** 2).sum()
    o = clip.state[0]
    area = np.pi * o.radius**2 if o.shape == "ball" else 4 * o.radius**2
    assert_within(coverage.sum((1, 2)) / area, 1, 0.01, "of the true area")


@pytest.mark.slow
def test_objects_stay_inside_and_never_overlap() -> None:
    for clip in clips():
        for o in clip.state:
            assert (o.position - o.radius > -0.2).all() and (o.position + o.radius < 64.2).all()
            assert (o.visible == 1).all()
        for i, a in enumerate(clip.state):
            for b in clip.state[:i]:
                gap = np.linalg.norm(a.position - b.position, axis=1)
                assert (gap > 0.95 * (a.radius + b.radius)).all()


def test_free_flight_is_a_parabola_with_the_world_s_gravity() -> None:
    clip = make_clip(only("throw", max_objects=1, shapes=("ball",)), 3)
    o = clip.state[0]
    free = (o.position[:, 1] + o.radius < FLOOR - 2) & (np.abs(o.position[:, 0] - 32) < 30 - o.radius)
    run = int(np.argmin(free)) or len(free)
    bend = np.diff(o.position[:run], 2, axis=0)
    assert run >= 6
    assert_close(bend[:, 1], np.full(len(bend), GRAVITY / clip.fps**2), within=1e-6)
    assert_small(bend[:, 0], beside=o.position[:run, 0])


def test_without_gravity_a_lone_object_keeps_its_velocity() -> None:
    o = make_clip(only("float", max_objects=1), 6).state[0]
    assert_close(np.diff(o.position, axis=0), o.velocity[:-1])
    assert_close(o.velocity, np.broadcast_to(o.velocity[0], o.velocity.shape))


@pytest.mark.parametrize(("shape", "rise"), [("box", 0.5), ("ball", 0.3)])
def test_a_ramp_is_rolled_or_slid_down_at_the_textbook_rate(shape: str, rise: float) -> None:
    """A sliding box accelerates by g (sin - mu cos); a disk that rolls without slipping by 2/3 g sin."""
    slope, friction = np.arctan(rise), 0.15
    along, normal = np.array([np.cos(slope), np.sin(slope)]), np.array([np.sin(slope), -np.cos(slope)])
    start = np.array([0.0, 20.0]) + 12 * along + 6.01 * normal
    body = Body(shape, 6.0, float(start[0]), float(start[1]), angle=slope if shape == "box" else 0.0)
    ramp = ((0.0, 20.0), (70.0, 20.0 + 70 * rise), (0.0, 20.0 + 70 * rise))
    path = simulate(Scene((body,), gravity=True, bounce=0.1, friction=friction, ramp=ramp), 9, 8.0)
    speed = path.velocity[0] @ along
    sliding = GRAVITY * (np.sin(slope) - friction * np.cos(slope))
    expected = sliding if shape == "box" else GRAVITY * np.sin(slope) * 2 / 3
    assert (speed[-1] - speed[2]) / (6 / 8) == pytest.approx(expected, rel=0.03)
    if shape == "ball":
        assert (path.angle[0, -1] - path.angle[0, 2]) * 6 == pytest.approx(
            (path.position[0, -1] - path.position[0, 2]) @ along, rel=0.03
        )


def test_the_frame_rate_samples_the_same_motion() -> None:
    slow, fast = (make_clip(only("float", frames=f, fps=r), 9) for f, r in ((17, 8.0), (33, 16.0)))
    assert_close(fast.state[0].position[::2], slow.state[0].position, within=1e-7)


def test_everything_in_the_table_of_scenarios_occurs() -> None:
    shown = {(c.request.scenario, c.request.direction) for c in clips()}
    assert shown == {(name, way) for name, ways in SCENARIO_DIRECTIONS.items() for way in ways}
    counted = {(c.request.scenario, len(c.state)) for c in clips()}
    assert counted == {(name, n) for name, numbers in SCENARIO_COUNTS.items() for n in numbers}
    assert {colour for c in clips() for colour, _ in c.request.objects} == set(COLOURS)


def test_label_request_and_state_agree() -> None:
    for clip in clips():
        assert CLASSES[clip.label] == clip.request.scenario
        assert clip.request.objects == tuple((o.colour, o.shape) for o in clip.state)
        assert len({o.colour for o in clip.state}) == len(clip.state)


def test_captions_say_the_request() -> None:
    for clip in clips():
        assert parse_caption(clip.caption) == clip.request
    assert len({c.caption.split()[-1] for c in clips()}) > 10


@pytest.mark.parametrize("scenario", CLASSES)
def test_every_phrasing_is_understood(scenario: str) -> None:
    names = (("red", "ball"), ("orange", "ball"), ("blue", "ball"))
    for count in SCENARIO_COUNTS[scenario]:
        for objects in (names[:count], (("cyan", "box"), *names[1:count])):
            for way in SCENARIO_DIRECTIONS[scenario]:
                request = WorldRequest(objects, scenario, way)
                sentences = phrasings(request) + (phrasings(request, grouped=True) if scenario != "collide" else [])
                assert len(set(sentences)) >= 3
                for sentence in sentences:
                    assert parse_caption(sentence) == request, sentence
                    assert "  " not in sentence and ",," not in sentence


@pytest.mark.parametrize(
    ("prompt", "request_"),
    [
        ("A blue ball bounces on the floor.", WorldRequest((("blue", "ball"),), "bounce", "down")),
        ("a red ball is thrown", WorldRequest((("red", "ball"),), "throw", None)),
        ("a pink box floats upwards", WorldRequest((("pink", "box"),), "float", "up")),
        (
            "a green box hits a red ball from the left",
            WorldRequest((("green", "box"), ("red", "ball")), "collide", "right"),
        ),
        (
            "two balls, one yellow and one pink, fall",
            WorldRequest((("yellow", "ball"), ("pink", "ball")), "fall", "down"),
        ),
        ("an orange box", WorldRequest((("orange", "box"),))),
    ],
)
def test_a_persons_own_prompt(prompt: str, request_: WorldRequest) -> None:
    assert parse_caption(prompt) == request_


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("a red ball and a dog fall", "'dog'"),
        ("a ball falls", "without a colour"),
        ("a red thing falls", "'thing'"),
        ("two balls, one red, fall", "2 objects but 1 colours"),
        ("a red ball and a red box fall", "one colour"),
        ("a red ball rolls to the left", "what happens"),
        ("a red ball falls up", "'fall' up"),
        ("a red ball is thrown to the left and to the right", "two directions"),
        ("a red ball collides", "1 object"),
        ("a red ball, a blue ball, a green ball and a cyan ball fall", "4 objects"),
        ("", "0 objects"),
    ],
)
def test_a_prompt_outside_the_grammar_says_what_is_understood(prompt: str, names: str) -> None:
    with pytest.raises(InputError, match=names) as caught:
        parse_caption(prompt)
    assert "thrown (left or right)" in str(caught.value) and "purple" in str(caught.value)


def test_the_config_chooses_what_occurs() -> None:
    config = WorldConfig(scenarios={"fall": 1, "float": 1}, min_objects=2, max_objects=2, shapes=("box",))
    for seed in range(20):
        clip = make_clip(config, seed)
        assert CLASSES[clip.label] in ("fall", "float")
        assert [o.shape for o in clip.state] == ["box", "box"]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"scenarios": {"fly": 1}}, "unknown scenario 'fly'"),
        ({"scenarios": {"fall": 0}}, "above zero"),
        ({"scenarios": {"collide": 1}, "max_objects": 1}, "1 to 1 objects"),
        ({"min_objects": 3, "max_objects": 2}, "more than max_objects"),
        ({"colours": ["red", "mauve"]}, "mauve"),
        ({"colours": ["red"]}, "as many colours"),
        ({"size": 16}, "size"),
    ],
)
def test_an_impossible_config_is_refused(values: dict[str, Any], names: str) -> None:
    with pytest.raises(InputError, match=names):
        load_config(WorldConfig, values)


def test_the_state_is_saved_and_read_back(tmp_path: Path) -> None:
    clip = make_clip(WorldConfig(), 12)
    save_state(clip, tmp_path / "state.json")
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]
    request, objects = load_state(tmp_path / "state.json")
    assert request == clip.request
    for a, b in zip(clip.state, objects, strict=True):
        assert (a.colour, a.shape, a.radius) == (b.colour, b.shape, b.radius)
        for name in ("position", "velocity", "angle", "visible"):
            assert_within(getattr(b, name), getattr(a, name), 1e-6, "in a file that holds six decimals")


def test_a_file_that_is_no_state_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.json: no such file"):
        load_state(tmp_path / "missing.json")
    for n, text in enumerate(("{", "[]", json.dumps({"request": {}}))):
        (tmp_path / f"{n}.json").write_text(text)
        with pytest.raises(InputError, match=rf"{n}\.json: not a state file"):
            load_state(tmp_path / f"{n}.json")


def test_it_is_fast_enough_to_feed_training() -> None:
    """Beside one convolution of its pixels to 32 channels, of which training has dozens; a fifth when measured."""
    clip, weight = torch.zeros(1, 3, 17, 64, 64), torch.zeros(32, 3, 3, 3, 3)
    seconds = []
    for work in (lambda seed: make_clip(WorldConfig(), seed), lambda seed: F.conv3d(clip, weight)):
        start = time.process_time()
        for seed in range(20):
            work(seed)
        seconds.append(time.process_time() - start)
    assert seconds[0] < 4 * seconds[1]


def test_units_of_the_scene() -> None:
    """A falling object comes to rest on the floor that is drawn."""
    clip = make_clip(only("fall", max_objects=1, shapes=("ball",), frames=33), 2)
    o = clip.state[0]
    assert o.position[-1, 1] + o.radius == pytest.approx(FLOOR * 64 / FRAME, abs=0.1)
    assert (clip.frames[0, int(FLOOR) + 1] == clip.frames[0, 63]).all()
    assert (clip.frames[0, int(FLOOR) - 1, 0] == clip.frames[0, 0, 0]).all()
