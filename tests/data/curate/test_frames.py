"""Signals of frames on small clips of which the truth is known by construction."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from kinolab.data.curate.bars import Bars, bars
from kinolab.data.curate.blocks import blockiness
from kinolab.data.curate.cuts import Cuts, CutsConfig, residual
from kinolab.data.curate.duplicates import Duplicates, likeness
from kinolab.data.curate.exposure import Exposure
from kinolab.data.curate.frames import FrameSignal, Part, Sampled, Trace, View, inside
from kinolab.data.curate.motion import Motion, camera_of
from kinolab.data.curate.native import Native
from kinolab.data.curate.sharpness import sharpness
from kinolab.data.curate.text import edge_text
from kinolab.tables import FRAME_SIGNALS

FPS = 8


def wall(seed: int, size: int = 64) -> np.ndarray:
    """A pattern (size, size, 3) with something to see everywhere."""
    coarse = np.random.default_rng(seed).integers(0, 255, (size // 8, size // 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def traced(signal: FrameSignal, frames: Iterable[np.ndarray], fps: float = FPS) -> Trace:
    watcher, sampled = signal.watch(), Sampled(signal.config.rate)
    for k, frame in enumerate(frames):
        if sampled.wants(k / fps):
            watcher.see(View(k / fps, frame))
    return watcher.trace()


def scored(signal: FrameSignal, frames: list[np.ndarray], fps: float = FPS) -> dict[str, float | None]:
    return signal.score(traced(signal, frames, fps), Part(0.0, len(frames) / fps))


def rolled(picture: np.ndarray, steps: Iterable[int]) -> list[np.ndarray]:
    return [np.roll(picture, step, axis=1) for step in steps]


def test_a_rate_asks_for_the_first_frame_at_or_after_each_moment() -> None:
    every, twice = Sampled(None), Sampled(2.0)
    times = [0.0, 0.2, 0.4999, 0.7, 1.3, 2.6, 2.7]
    assert all(every.wants(t) for t in times)
    assert [t for t in times if twice.wants(t)] == [0.0, 0.4999, 1.3, 2.6]


def test_pairs_belong_to_the_part_that_has_both_their_frames() -> None:
    trace = {"time": np.array([1.0, 2.0, 3.0]), "since": np.array([0.0, 1.0, 2.0]), "x": np.array([1.0, 2.0, 3.0])}
    assert inside(trace, Part(1.0, 3.0))["x"].tolist() == [2.0]
    assert inside({"time": trace["time"]}, Part(1.0, 3.0))["time"].tolist() == [1.0, 2.0]


def parts(frames: list[np.ndarray], **config: object) -> list[tuple[int, int]]:
    cuts = Cuts(CutsConfig.model_validate(config))
    found = cuts.parts(traced(cuts, frames), len(frames) / FPS)
    return [(round(p.start * FPS), round(p.end * FPS)) for p in found]


def test_hard_cuts_are_found_and_a_pan_a_flash_and_a_jump_of_light_are_none() -> None:
    a, b = wall(1), wall(2)
    pan = rolled(a, range(0, 24, 2))
    assert parts(pan + rolled(b, range(0, 24, 2))) == [(0, 12), (12, 24)]
    assert parts(pan) == [(0, 12)]
    assert parts([*pan[:6], np.full_like(a, 255), *pan[6:]]) == [(0, 13)], "a flash"
    assert parts([a] * 4 + [b] * 8 + [wall(3)] * 8) == [(0, 4), (4, 12), (12, 20)]


@pytest.mark.parametrize("through", ["mixture", "black"])
def test_slow_cuts_are_left_out_between_two_scenes(through: str) -> None:
    a, b, steps = wall(1).astype(float), wall(2).astype(float), np.linspace(0, 1, 10)[1:-1]
    between = [a * (1 - s) + b * s if through == "mixture" else (a if s < 0.5 else b) * abs(2 * s - 1) for s in steps]
    frames = [f.astype(np.uint8) for f in [a] * 12 + between + [b] * 12]
    [(start, first), (second, end)] = parts(frames)
    assert (start, end) == (0, 32) and abs(first - 12) <= 2 and abs(second - 20) <= 2
    assert parts(frames, slow=()) == [(0, 32)]


def test_a_mixture_is_told_from_a_move() -> None:
    a, b, c = (wall(k).astype(np.float32) / 255 for k in range(3))
    assert residual(a, 0.5 * a + 0.5 * b, b) < 0.05
    assert residual(a, c, b) > 0.5 and residual(a, a, b) == 1 and residual(a, b, a) == 1


def test_motion_is_of_magnitudes_and_tells_the_camera_from_objects() -> None:
    pytest.importorskip("cv2")
    a = wall(1, 96)
    still = scored(Motion(), [a] * 8)
    assert still["motion"] == 0 and still["jitter"] == 0
    pan = scored(Motion(), rolled(a, range(0, 16, 2)))
    # 2 of 96 pixels, 8 times a second; what wraps around at the border is no motion that can be seen.
    assert pan["motion"] == pytest.approx(2 / 96 * FPS, rel=0.2) and pan["camera"] == pytest.approx(
        pan["motion"], rel=0.2
    )
    assert pan["jitter"] is not None and pan["jitter"] < 0.01
    shake = scored(Motion(), rolled(a, [0, 2, -2, 3, -1, 2, -3, 1]))
    assert shake["jitter"] is not None and shake["jitter"] > 0.02
    apart = []
    for k in range(8):  # two halves that move in opposite directions
        frame = a.copy()
        frame[20:40, :], frame[56:76, :] = np.roll(a, 2 * k, 1)[20:40], np.roll(a, -2 * k, 1)[56:76]
        apart.append(frame)
    both = scored(Motion(), apart)
    assert both["motion"] is not None and both["motion"] > 0.04, "signed means would cancel"
    assert both["camera"] is not None and both["camera"] < 0.3 * both["motion"]
    assert scored(Motion(), [a]) == dict.fromkeys(Motion.scores)


def test_the_camera_is_the_affine_motion_that_most_agree_on() -> None:
    y, x = np.mgrid[:40, :60] / np.array([40, 60])[:, None, None] - 0.5
    truth = np.stack([1.5 + 0.8 * x - 0.2 * y, -0.5 + 0.3 * x + 0.8 * y], -1).astype(np.float32)
    seen = truth.copy()
    seen[5:20, 10:30] += 4  # an object
    error = np.linalg.norm(camera_of(seen, np.ones((40, 60))) - truth, axis=-1)
    assert error.max() < 0.05 * np.linalg.norm(truth, axis=-1).max()
    assert not camera_of(seen, np.zeros((40, 60))).any()


def test_sharpness_falls_with_blur_and_not_with_contrast() -> None:
    grain = np.random.default_rng(0).integers(0, 255, (80, 80)).astype(np.uint8)
    blurred = [np.asarray(Image.fromarray(grain).filter(ImageFilter.GaussianBlur(r)), float) for r in (1, 2, 4)]
    found = [sharpness(picture) for picture in (grain.astype(float), *blurred)]
    assert found == sorted(found, reverse=True) and found[0] > 0.75 > 0.4 > found[-1]
    assert sharpness(grain * 0.2 + 90.0) == pytest.approx(found[0], rel=1e-6)
    assert sharpness(np.full((40, 40), 7.0)) == 0


def test_light() -> None:
    half = np.zeros((32, 32, 3), np.uint8)
    half[:, 16:] = 255
    assert scored(Exposure(), [half] * 3) == pytest.approx({"brightness": 0.5, "clipped": 1.0, "contrast": 0.5})
    grey = scored(Exposure(), [np.full_like(half, 128)] * 3)
    assert grey["brightness"] == pytest.approx(128 / 255, rel=0.01) and grey["clipped"] == 0
    assert grey["contrast"] is not None and grey["contrast"] < 0.01


def test_blocks_stand_on_a_grid_and_a_horizon_does_not() -> None:
    grain = np.clip(wall(4, 128) + np.random.default_rng(0).normal(0, 6, (128, 128, 3)), 0, 255).astype(np.uint8)
    kept = io.BytesIO()
    Image.fromarray(grain).save(kept, "JPEG", quality=4)
    squeezed = np.asarray(Image.open(kept).convert("L"), float)
    horizon = np.full((128, 128), 200.0)
    horizon[96:] = 80
    assert blockiness(squeezed) > 1 > 0.5 > blockiness(grain.mean(-1)) and blockiness(horizon) == 0
    assert blockiness(np.zeros((16, 16))) == 0


def test_bars_are_what_stays_dark_in_every_frame() -> None:
    frames = [wall(k, 80).copy() for k in range(4)]
    for frame in frames:
        frame[:8], frame[-16:] = 0, 3
    frames[0] = np.zeros_like(frames[0])  # a black frame says nothing
    signal = Bars()
    trace = traced(signal, frames, fps=2)
    assert signal.score(trace, Part(0, 2))["bars"] == pytest.approx(24 / 80)
    assert signal.crop(trace, Part(0, 2)) == pytest.approx((0, 0.1, 1, 0.7))
    assert bars(np.zeros((20, 20)), 40, 4) == (0, 0, 0, 0)
    black = traced(signal, [np.zeros((80, 80, 3), np.uint8)] * 3, fps=2)
    assert signal.crop(black, Part(0, 2)) == (0, 0, 1, 1) and signal.crop(black, Part(9, 10)) is None


def test_an_estimate_of_text_by_its_strokes() -> None:
    plain = np.asarray(Image.fromarray(wall(5, 160)).convert("L"), np.float32)
    layer = Image.fromarray(plain.astype(np.uint8))
    ImageDraw.Draw(layer).multiline_text(
        (8, 100), "the quick brown fox\njumps over a lazy dog", fill=255, font=ImageFont.load_default(14),
        stroke_width=1, stroke_fill=0,
    )  # fmt: skip
    assert edge_text(plain, 0.16) < 0.01 < 0.08 < edge_text(np.asarray(layer, np.float32), 0.16)


def test_the_same_again_is_found_through_scaling_and_another_clip_is_not() -> None:
    signal = Duplicates()
    clips = [rolled(wall(k, 96), range(0, 24, 2)) for k in (1, 2, 3)]
    copy = [np.asarray(Image.fromarray(f).resize((64, 64), Image.Resampling.BILINEAR)) for f in clips[1]]
    empty = [np.full((64, 64, 3), 90, np.uint8)] * 12
    prints = [signal.print_of(traced(signal, frames), Part(0, 1.5)) for frames in (*clips, empty, copy, empty)]
    found = likeness(prints)
    assert found[4][1] == 1 and found[4][0] > 0.8
    assert all(alike < 0.5 for alike, _ in found[:4]) and found[5] == (0.0, None), "nothing is like an empty picture"
    assert signal.print_of(traced(signal, clips[0]), Part(8, 9)).size == 0


def test_native_facts() -> None:
    signal = Native()
    trace = traced(signal, [np.zeros((40, 60, 3), np.uint8)] * 9)
    assert signal.end(trace) == pytest.approx(9 / FPS)
    facts = signal.score(trace, Part(0, 9 / FPS))
    assert facts == pytest.approx({"seconds": 9 / FPS, "frames": 9, "fps": FPS, "side": 40, "aspect": 1.5})
    assert signal.score(trace, Part(5, 6))["fps"] is None


def test_the_protocol_decides_and_thresholds_of_cuts_leave_the_trace() -> None:
    usual, other, finer = Cuts(), Cuts(CutsConfig(threshold=0.3)), Cuts(CutsConfig(slow=(0.25,)))
    assert usual.hash() != other.hash() and usual.trace_hash() == other.trace_hash() != finer.trace_hash()
    names = [score for name in FRAME_SIGNALS for score in FRAME_SIGNALS.get(name).scores]
    assert len(names) == len(set(names)), "a score is one signal's"
