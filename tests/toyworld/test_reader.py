"""The reader of the toy world is right on true clips, says no to wrong ones, and stands blur and noise."""

from __future__ import annotations

import dataclasses
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest

from kinolab.errors import InputError
from kinolab.toyworld import reader as reader
from kinolab.toyworld.clips import COLOURS, WorldClip, WorldConfig, WorldRequest, make_clip
from kinolab.toyworld.reader import WorldCheck, check, read_world, roughness
from kinolab.toyworld.scenes import Body, Scene, Trajectory
from tests.closeness import assert_within

VERDICTS = ("colours", "shapes", "count", "direction", "motion", "identity")


@cache
def clip_of(scenario: str, seed: int = 0, **fields: Any) -> WorldClip:
    return make_clip(WorldConfig(scenarios={scenario: 1.0}, **fields), seed)


def spoil(frames: np.ndarray, seed: int) -> np.ndarray:
    """Blur and noise, as a lossy autoencoder leaves them."""
    x = frames.astype(np.float64)
    for axis in (1, 2):
        x = 0.2 * np.roll(x, 1, axis) + 0.6 * x + 0.2 * np.roll(x, -1, axis)
    x += np.random.default_rng(seed).normal(0, 6, x.shape)
    return np.clip(x.round(), 0, 255).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def rates(size: int, seeds: range, spoiled: bool = False) -> tuple[dict[str, float], list[float], float]:
    """The share of right verdicts, every distance from the true position (px), the mean PSNR of what was read."""
    right: Counter[str] = Counter()
    errors: list[float] = []
    quality: list[float] = []
    for seed in seeds:
        clip = make_clip(WorldConfig(size=size), seed)
        frames = spoil(clip.frames, seed) if spoiled else clip.frames
        quality.append(psnr(frames, clip.frames) if spoiled else np.inf)
        reading = read_world(frames)
        result = check(clip.request, reading)
        right.update({name: int(getattr(result, name)) for name in VERDICTS})
        for o in clip.state:
            seen = reading.find(o.colour)
            if seen is not None:
                errors += np.linalg.norm(seen.position - o.position, axis=1).tolist()
    return {name: right[name] / len(seeds) for name in VERDICTS}, errors, float(np.mean(quality))


@pytest.mark.slow
def test_true_clips_at_64_px_read_right() -> None:
    right, errors, _ = rates(64, range(300))
    assert min(right.values()) >= 0.99, right
    assert np.mean(np.array(errors) <= 0.5) >= 0.999  # NaN, an object not seen, counts as wrong
    assert np.median(errors) < 0.05


@pytest.mark.slow
def test_true_clips_at_32_px_read_right() -> None:
    right, errors, _ = rates(32, range(60))
    assert min(right.values()) >= 0.98, right
    assert np.mean(np.array(errors) <= 0.5) >= 0.99


@pytest.mark.slow
def test_true_clips_at_128_px_read_right() -> None:
    right, errors, _ = rates(128, range(12))
    assert min(right.values()) == 1, right
    assert np.mean(np.array(errors) <= 0.5) >= 0.999


@pytest.mark.slow
def test_blurred_and_noisy_clips_read_right() -> None:
    right, errors, quality = rates(64, range(60), spoiled=True)
    assert 28 < quality < 32
    assert min(right.values()) >= 0.95, right
    assert np.mean(np.array(errors) <= 0.5) >= 0.99


def test_the_motion_of_true_clips_is_smooth() -> None:
    smooth = [roughness(read_world(clip_of("throw", seed).frames)) for seed in range(10)]
    assert np.median(smooth) < 0.03


def verdict(request: WorldRequest, frames: np.ndarray) -> WorldCheck:
    return check(request, read_world(frames))


def wrong(result: WorldCheck) -> set[str]:
    return {name for name in VERDICTS if not getattr(result, name)}


def render(clip: WorldClip, bodies: list[Body], colours: list[str]) -> np.ndarray:
    """Frames of a floating scene redrawn with other objects on the same paths."""
    from kinolab.toyworld.clips import draw

    states = clip.state[: len(bodies)]
    path = Trajectory(
        np.stack([o.position for o in states]),
        np.stack([o.velocity for o in states]),
        np.stack([o.angle for o in states]),
    )
    return draw(Scene(tuple(bodies), gravity=False, bounce=1.0, friction=0.0), path, colours, 64)


def floating(**fields: Any) -> tuple[WorldClip, list[Body], list[str]]:
    clip = clip_of("float", 1, min_objects=2, max_objects=2, **fields)
    return clip, [Body(o.shape, o.radius, 0, 0) for o in clip.state], [o.colour for o in clip.state]


def test_redrawing_alone_changes_nothing() -> None:
    clip, bodies, colours = floating()
    np.testing.assert_array_equal(render(clip, bodies, colours), clip.frames)
    assert verdict(clip.request, clip.frames).passed


def test_a_wrong_colour_is_seen() -> None:
    clip, bodies, colours = floating()
    other = next(name for name in COLOURS if name not in colours)
    assert {"colours", "shapes"} <= wrong(verdict(clip.request, render(clip, bodies, [other, colours[1]])))


def test_swapped_colours_of_a_ball_and_a_box_are_seen() -> None:
    clips = (clip_of("float", seed, min_objects=2, max_objects=2) for seed in range(40))
    clip = next(c for c in clips if len({o.shape for o in c.state}) == 2)
    (one, a), (two, b) = clip.request.objects
    swapped = dataclasses.replace(clip.request, objects=((two, a), (one, b)))
    assert wrong(verdict(swapped, clip.frames)) == {"shapes"}


def test_a_missing_object_is_seen() -> None:
    clip, bodies, colours = floating()
    assert {"colours", "shapes", "count", "direction"} <= wrong(
        verdict(clip.request, render(clip, bodies[:1], colours[:1]))
    )


def test_an_object_too_many_is_seen() -> None:
    clip = floating()[0]
    one = dataclasses.replace(clip.request, objects=clip.request.objects[:1])
    assert wrong(verdict(one, clip.frames)) == {"colours", "count"}


def test_two_objects_of_one_colour_are_two() -> None:
    clip, bodies, colours = floating()
    reading = read_world(render(clip, bodies, [colours[0], colours[0]]))
    assert reading.count == 2 and reading.steady
    assert "count" in wrong(check(dataclasses.replace(clip.request, objects=clip.request.objects[:1]), reading))


def test_an_object_that_vanishes_halfway_loses_its_identity() -> None:
    clip, bodies, colours = floating()
    frames = clip.frames.copy()
    frames[9:] = render(clip, bodies[:1], colours[:1])[9:]
    assert "identity" in wrong(verdict(clip.request, frames))


def test_a_colour_that_changes_halfway_loses_its_identity() -> None:
    clip, bodies, colours = floating()
    other = next(name for name in COLOURS if name not in colours)
    frames = clip.frames.copy()
    frames[9:] = render(clip, bodies, [other, colours[1]])[9:]
    assert {"identity", "colours", "count"} <= wrong(verdict(clip.request, frames))


def test_a_shape_that_changes_halfway_loses_its_identity() -> None:
    clip, bodies, colours = floating(shapes=("ball",))
    frames = clip.frames.copy()
    frames[9:] = render(clip, [dataclasses.replace(b, shape="box") for b in bodies], colours)[9:]
    assert "identity" in wrong(verdict(clip.request, frames))


def test_an_object_that_splits_loses_its_identity() -> None:
    clip, bodies, colours = floating()
    frames = clip.frames.copy()
    frames[12:] = render(clip, bodies, [colours[0], colours[0]])[12:]
    assert "identity" in wrong(verdict(clip.request, frames))


def test_an_object_that_jumps_loses_its_identity() -> None:
    clip = clip_of("float", 2, max_objects=1)
    frames = np.concatenate([clip.frames[:6], clip.frames[:5:-1]])
    assert wrong(verdict(clip.request, frames)) >= {"identity"}


@pytest.mark.parametrize("scenario", ["throw", "float", "ramp"])
def test_time_run_backwards_is_the_wrong_direction(scenario: str) -> None:
    for seed in range(8):
        clip = clip_of(scenario, seed)
        assert "direction" in wrong(verdict(clip.request, clip.frames[::-1]))


def test_a_mirrored_clip_is_the_wrong_direction() -> None:
    clip = clip_of("throw", 1)
    result = verdict(clip.request, clip.frames[:, :, ::-1])
    assert wrong(result) == {"direction"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shown", "asked"),
    [("fall", "bounce"), ("bounce", "fall"), ("fall", "float"), ("float", "ramp")],
)
def test_another_scenario_is_not_the_one_asked(shown: str, asked: str) -> None:
    clips = [c for seed in range(12) if (c := clip_of(shown, seed)).request.direction in ("down", "left")]
    assert len(clips) >= 4
    for clip in clips:
        request = dataclasses.replace(clip.request, scenario=asked)
        assert not verdict(request, clip.frames).motion, clip.caption


def test_objects_that_never_meet_do_not_collide() -> None:
    clip = clip_of("float", 3, min_objects=2, max_objects=2)
    assert not verdict(WorldRequest(clip.request.objects, "collide", None), clip.frames).motion


def test_a_request_for_objects_only_asks_no_motion() -> None:
    clip = make_clip(WorldConfig(frames=3), 4)
    assert verdict(clip.request, clip.frames).passed


def test_an_empty_video_shows_nothing() -> None:
    reading = read_world(np.full((5, 64, 64, 3), 238, np.uint8))
    assert reading.count == 0 and not reading.steady
    result = check(WorldRequest((("red", "ball"),), "fall", "down"), reading)
    assert wrong(result) == set(VERDICTS) and np.isnan(result.physics)


def test_grey_noise_shows_nothing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 1), np.uint8)
    assert read_world(np.repeat(noise, 3, axis=3)).count == 0


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 64, 64), np.uint8), np.zeros((2, 64, 64, 3)), np.zeros((0, 8, 8, 3), np.uint8)]
)
def test_what_is_not_a_video_is_refused(frames: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"\(T, H, W, 3\) uint8"):
        read_world(frames)


def test_long_videos_are_read_in_pieces_to_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(WorldConfig(frames=40), 3)
    whole = read_world(clip.frames)
    monkeypatch.setattr(reader, "_CHUNK", 7)
    pieces = read_world(clip.frames)
    for a, b in zip(whole.objects, pieces.objects, strict=True):
        np.testing.assert_array_equal(a.position, b.position)


@pytest.mark.parametrize("degrees", [0, 20, 45, 70])
def test_a_box_is_a_box_at_any_angle(degrees: float) -> None:
    clip = clip_of("float", 5, max_objects=1, shapes=("box",))
    state = [dataclasses.replace(o, angle=np.full(17, np.radians(degrees))) for o in clip.state]
    turned = dataclasses.replace(clip, state=state)
    frames = render(turned, [Body("box", o.radius, 0, 0) for o in state], [o.colour for o in state])
    seen = read_world(frames).objects[0]
    assert seen.shape == "box"
    assert_within(seen.squareness, 1, 0.08, "of a square's")
    assert seen.extent == pytest.approx(state[0].radius, rel=0.05)


def test_roughness_is_zero_on_a_parabola_and_the_jitter_off_it() -> None:
    t = np.arange(200.0)
    smooth = np.stack([0.2 * t, 1 + 0.1 * t + 0.0005 * t**2], 1)
    jitter = np.random.default_rng(0).normal(0, 0.5, smooth.shape)

    def of(position: np.ndarray) -> float:
        o = reader.ReadObject("red", "ball", position, np.ones(200), np.zeros(200), 64)
        return roughness(reader.WorldReading((o,), 200, True))

    assert of(smooth) == pytest.approx(0, abs=1e-9)
    # The root mean square over two axes of 0.5 each, as a median over windows.
    assert of(smooth + jitter) == pytest.approx(0.5 * np.sqrt(2), rel=0.15)


def test_components_are_those_of_a_flood_fill() -> None:
    label = np.random.default_rng(1).integers(0, 3, (3, 12, 15))
    ids, count = reader._components(label)
    expected = np.zeros_like(label)
    number = 0
    for start in zip(*np.nonzero(label), strict=True):
        if expected[start]:
            continue
        number += 1
        stack = [start]
        while stack:
            t, y, x = stack.pop()
            inside = 0 <= y < 12 and 0 <= x < 15
            if inside and not expected[t, y, x] and label[t, y, x] == label[start]:
                expected[t, y, x] = number
                stack += [(t, y + 1, x), (t, y - 1, x), (t, y, x + 1), (t, y, x - 1)]
    assert count == number
    pairs = set(zip(ids.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == number + 1


def test_objects_that_flicker_are_judged_and_not_an_error() -> None:
    """Generated clips lose an object for some frames: identity fails, motion is judged on what is between."""
    config = WorldConfig(scenarios={"collide": 1.0})
    clip = make_clip(config, 5)
    frames = clip.frames.copy()
    background = frames[0, 2, 2]
    whole = read_world(frames)
    box = whole.objects[0]
    for t in (3, 4, 9):
        x, y = np.nan_to_num(box.position[t]).astype(int)
        r = int(box.extent) + 4
        frames[t, max(0, y - r) : y + r, max(0, x - r) : x + r] = background
    result = check(clip.request, read_world(frames))
    assert not result.identity
    assert result.colours and result.count
    lost = read_world(frames).find(box.colour)
    assert lost is not None and lost.path.shape == (config.frames, 2) and np.isfinite(lost.path).all()
