"""The cheap detector of cuts, PySceneDetect's, and the frame rule of groups."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from kinolab.layers.frame_rule import frames_above, frames_below, frames_of, latents_of
from kinolab.layers.key_frames import key_candidates, latents_in_group
from kinolab.layers.scene_cuts import CutDetector, change_score, detector_cuts


def scene(colour: tuple[float, float, float], frames: int, speed: float = 0.0) -> torch.Tensor:
    """A square that moves over a ground of one colour: (T, 3, 32, 32)."""
    clip = torch.tensor(colour).view(1, 3, 1, 1).expand(frames, 3, 32, 32).clone()
    for t in range(frames):
        x = int(t * speed) % 24
        clip[t, :, 8:16, x : x + 8] = 0.5
    return clip


def found(clip: torch.Tensor, threshold: float = 0.08) -> list[int]:
    detector = CutDetector(threshold, 2.5)
    return [t for t, frame in enumerate(clip) if detector.begins_scene(frame)]


def test_scores_are_of_equal_frames_zero_and_of_opposite_ones_one() -> None:
    black, white = torch.full((3, 20, 20), -1.0), torch.ones(3, 20, 20)
    assert change_score(black, black) == 0.0
    assert change_score(black, white) == pytest.approx(1.0)


def test_cuts_are_found_and_motion_is_none() -> None:
    clip = torch.cat([scene((-0.8, 0, 0), 6, 3), scene((0.6, 0.5, -0.9), 4, 5), scene((0.1, -0.9, 0.9), 7)])
    assert found(clip) == [6, 10]
    assert found(scene((-0.5, 0, 0), 20, 8)) == []
    everything = torch.stack([torch.full((3, 8, 8), v) for v in (-1.0, 1.0, -1.0, 1.0)])
    assert found(everything) == [1, 2, 3]


def test_a_change_that_grows_slowly_is_no_cut_however_large_it_gets() -> None:
    noise = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before, after = 0.5 * noise[0] - 0.9, 0.5 * noise[1] + 0.3
    shares = torch.cumsum(1.6 ** torch.arange(14.0), 0)
    faded = torch.stack([torch.lerp(before, after, float(share / shares[-1])) for share in shares])
    changes = [change_score(a, b) for a, b in pairwise(faded)]
    assert max(changes) > 0.2 and changes[0] < 0.02
    assert found(faded) == []
    assert found(torch.stack([before, after])) == [1]


def test_pyscenedetect_finds_the_same() -> None:
    pytest.importorskip("scenedetect")
    rng = np.random.default_rng(0)
    scenes = [np.full((36, 64, 3), c) + rng.integers(-3, 4, (20, 36, 64, 3)) for c in ((200, 20, 20), (20, 30, 200))]
    frames = np.concatenate(scenes).clip(0, 255).astype(np.uint8)
    assert detector_cuts(iter(frames), 25.0) == (20,)


def test_the_candidates_cost_no_latent_more() -> None:
    for ratio in (2, 4, 8):
        for frames in range(1, 40):
            for key in key_candidates(frames, ratio):
                after = latents_in_group(frames - key, ratio)
                assert key // ratio + after == latents_in_group(frames, ratio)
    assert key_candidates(17, 4, 3) == [0, 8, 16] and key_candidates(17, 4, 1) == [0]


@pytest.mark.parametrize("group", [None, 5, 9])
def test_the_frame_rule_holds_together(group: int | None) -> None:
    valid = [t for t in range(1, 60) if (t % group if group else t) in (0, *range(1, 60, 4))]
    for t in range(1, 50):
        assert frames_below(t, 4, group=group) == max(v for v in valid if v <= t)
        assert frames_above(t, 4, group=group) == min(v for v in valid if v >= t)
    latents = [latents_of(t, 4, group=group) for t in valid]
    assert latents == list(range(1, len(valid) + 1))
    assert [frames_of(n, 4, group=group) for n in latents] == valid
